"""Charts: what is drawn is what was given, and the SVG fits into a page."""
import numpy as np
import pytest
from page_check import Page

from pervit_mm.analysis.charts import (
    COLORS,
    Chart,
    bars_by_block,
    dots_by_block,
    heat_map,
    lines_by_block,
    pie,
)


def chart_of_all():
    chart = Chart(6, share_y=False)
    dots_by_block(chart.axes[0], dict(attention=[np.array([1., 2.]), np.array([3., 4.])]), [2., 2.])
    lines_by_block(chart.axes[1], dict(a=[1., 10.], b=[2., 20.]))
    chart.axes[1].set_yscale('log')
    bars_by_block(chart.axes[2], [np.array([0.5, 0.5])], np.array([0.2, 0.8]))
    pie(chart.axes[3], np.array([0.25, 0.75]), ['near', 'far'])
    for axes in chart.axes[4:]:  # the same image twice
        heat_map(chart, axes, np.eye(2))
    for axes in chart.axes:
        axes.set_title('a < b & c')
    return chart


def test_the_svg_needs_nothing_from_outside_and_takes_the_color_of_the_page():
    label = 'Shares of "Φa" & <others>'
    svg = chart_of_all().svg(label)
    page = Page(svg)  # checks that text has the color of the page
    page.check_names()
    first, = page.of('svg')
    assert first['role'] == 'img' and first['aria-label'] == label
    assert first['style'].startswith('width:100%;max-width:') and first['viewbox'].startswith('0 0 ')
    assert svg.startswith('<svg ') and svg.rstrip().endswith('</svg>')
    assert 'http' not in svg and '<metadata' not in svg and '#000000' not in svg and '#010203' not in svg
    assert all(attrs['xlink:href'].startswith('data:image/png') for attrs in page.of('image')) and page.of('image')


def test_names_differ_between_charts_and_the_same_chart_is_the_same_text():
    def svg(label):
        chart = Chart(1)
        heat_map(chart, chart.axes[0], np.eye(2))
        return chart.svg(label)

    assert svg('one') == svg('one')
    Page(svg('one') + svg('two')).check_names()


def test_dots_are_heads_and_lines_their_means():
    axes = Chart(1).axes[0]
    heads = dict(position=[np.array([1., 3.]), np.array([4., 6.])],
                 attention=[np.array([2.]), np.array([8., 10., 12.])])
    dots_by_block(axes, heads, [5., 6.], 'even')
    lines = {line.get_label(): line for line in axes.lines}
    for name, factor in (('Φp', 'position'), ('Φa', 'attention')):
        np.testing.assert_allclose(lines[name].get_ydata(), [values.mean() for values in heads[factor]])
        assert lines[name].get_color() == COLORS[factor]
        dots = [line for line in axes.lines if line.get_marker() == '.' and line.get_color() == COLORS[factor]]
        for block, (line, values) in enumerate(zip(dots, heads[factor], strict=True)):
            np.testing.assert_allclose(line.get_ydata(), values)
            np.testing.assert_allclose(line.get_xdata(), block, atol=0.2)
            # Dots lie on the line that goes through their mean.
            np.testing.assert_allclose(line.get_xdata(), lines[name].get_xdata()[block])
    np.testing.assert_allclose(lines['even'].get_ydata(), [5, 6])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ['Φp', 'Φa', 'even']
    assert list(axes.get_xticks()) == [0, 1] and axes.get_xlabel() == 'block'


def test_all_lines_are_drawn_however_many():
    axes = Chart(1).axes[0]
    lines_by_block(axes, {str(i): [i, i + 1] for i in range(8)})
    assert [list(line.get_ydata()) for line in axes.lines] == [[i, i + 1] for i in range(8)]


@pytest.mark.parametrize('rings', [2, 4, 9])
def test_bars_stack_all_rings(rings):
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(rings), size=3)
    uniform = np.full(rings, 1 / rings)
    axes = Chart(1).axes[0]
    bars_by_block(axes, list(shares), uniform)
    expected = np.array([*shares, uniform])
    assert len(axes.containers) == rings
    for ring, bars in enumerate(axes.containers):
        np.testing.assert_allclose([bar.get_height() for bar in bars], expected[:, ring])
        np.testing.assert_allclose([bar.get_y() for bar in bars], expected[:, :ring].sum(axis=1))
    assert [text.get_text() for text in axes.get_xticklabels()] == ['0', '1', '2', 'uniform']
    neighbors = [bars[0].get_facecolor() for bars in axes.containers]
    assert all(a != b for a, b in zip(neighbors, neighbors[1:]))


@pytest.mark.parametrize('rings', [3, 8])
def test_a_pie_has_the_shares_as_angles_and_as_text(rings):
    shares = np.random.default_rng(0).dirichlet(np.ones(rings))
    axes = Chart(1).axes[0]
    pie(axes, shares, [f'ring {i}' for i in range(rings)])
    angles = [abs(wedge.theta2 - wedge.theta1) for wedge in axes.patches]
    np.testing.assert_allclose(angles, 360 * shares, atol=1e-3)
    assert axes.patches[0].theta2 == pytest.approx(90), 'from the top, clockwise'
    texts = [text.get_text() for text in axes.texts if text.get_text()]
    assert texts == [f'ring {i} {100 * share:.0f} %' for i, share in enumerate(shares)]


def test_a_heat_map_has_its_first_row_below_unless_it_is_an_image():
    values = np.arange(6.).reshape(2, 3)
    for origin in ('lower', 'upper'):
        chart = Chart(1)
        heat_map(chart, chart.axes[0], values, 0, 10, origin)
        image, = chart.axes[0].images
        np.testing.assert_array_equal(image.get_array(), values)
        assert image.get_clim() == (0, 10)
        bottom, top = chart.axes[0].get_ylim()
        assert (bottom < top) == (origin == 'lower')
