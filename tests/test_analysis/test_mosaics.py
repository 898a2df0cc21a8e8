"""Maps as pictures: which color is where."""
import warnings

import matplotlib
import numpy as np
import pytest

from pervit_mm.analysis.mosaics import (
    CELL,
    GAP,
    color_map,
    image_cell,
    legend,
    map_cell,
    mosaic,
    overlay,
    side_by_side,
)
from pervit_mm.utils.errors import UserError

RED, WHITE = (255, 0, 0), (255, 255, 255)
DARK, BRIGHT = ((255 * np.array(matplotlib.colormaps['viridis'](end)[:3])).round().astype(np.uint8)
                for end in (0., 1.))


def test_colors_go_from_low_to_high():
    drawn = color_map(np.array([[-5., 2., 3., 4., 9.]]), 2, 4)
    middle = (255 * np.array(matplotlib.colormaps['viridis'](0.5)[:3])).round()
    np.testing.assert_array_equal(drawn, [[DARK, DARK, middle, BRIGHT, BRIGHT]])


def test_each_token_is_a_square_of_its_color():
    values = np.zeros((4, 4))
    values[1, 2] = 3
    drawn = map_cell(values, cell=32)
    assert drawn.shape == (32, 32, 3) and drawn.dtype == np.uint8
    expected = np.full((32, 32, 3), DARK)
    expected[8:16, 16:24] = BRIGHT
    np.testing.assert_array_equal(drawn, expected)


def test_scale_says_whether_maps_can_be_compared():
    faint, strong = np.array([[0., 0.1], [0., 0.]]), np.array([[0., 1.], [0., 0.]])
    np.testing.assert_array_equal(map_cell(faint), map_cell(strong))
    np.testing.assert_array_equal(map_cell(faint, 'unit')[0, -1], color_map(np.array([[0.1]]), 0, 1)[0, 0])
    np.testing.assert_array_equal(map_cell(strong, 'unit')[0, -1], BRIGHT)
    np.testing.assert_array_equal(map_cell(np.full((2, 2), 0.3)), np.full((CELL, CELL, 3), DARK))  # one color


def test_unknown_values_are_dark_and_no_warning():
    values = np.array([[np.nan, 1.], [2., 3.]])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        drawn = map_cell(values, cell=2)
        empty = map_cell(np.full((2, 2), np.nan), cell=2)
    np.testing.assert_array_equal(drawn, color_map(np.array([[1., 1.], [2., 3.]]), 1, 3))
    np.testing.assert_array_equal(empty, np.full((2, 2, 3), DARK))


def test_the_query_has_a_red_frame_around_its_token():
    drawn = map_cell(np.zeros((4, 4)), query=(3, 0), cell=32)
    red = (drawn == RED).all(axis=2)
    expected = np.zeros((32, 32), bool)
    expected[24:32, 0:8] = True
    expected[25:31, 1:7] = False
    np.testing.assert_array_equal(red, expected)


def test_a_grid_that_is_not_square_leaves_white():
    drawn = map_cell(np.zeros((2, 4)), query=(1, 3), cell=32)
    assert (drawn[:16] != WHITE).any(axis=2).all() and (drawn[16:] == WHITE).all()
    assert (drawn[15, 31] == RED).all() and (drawn[8, 24] == RED).all()


def test_images_keep_their_proportions():
    rgb = np.zeros((10, 20, 3), np.uint8)
    rgb[:, :10] = (10, 20, 30)
    drawn = image_cell(rgb, cell=40)
    np.testing.assert_array_equal(drawn[:20, :20], np.full((20, 20, 3), (10, 20, 30)))
    assert (drawn[:20, 20:] == 0).all() and (drawn[20:] == WHITE).all()
    # A larger image is averaged, not sampled: black and white stripes become gray.
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 200
    np.testing.assert_allclose(image_cell(stripes, cell=64), 100)


def test_a_mosaic_has_its_cells_in_rows_and_columns():
    cells = [[np.full((8, 8, 3), 10 * (3 * row + column), np.uint8) for column in range(3)] for row in range(2)]
    cells[1][0] = None
    cells[1] = cells[1][:2]  # rows may differ in length
    drawn = mosaic(cells)
    assert drawn.shape == (GAP + 2 * (8 + GAP), GAP + 3 * (8 + GAP), 3)
    for row in range(2):
        for column in range(3):
            top, left = GAP + row * (8 + GAP), GAP + column * (8 + GAP)
            value = 255 if (row, column) in ((1, 0), (1, 2)) else 10 * (3 * row + column)
            assert (drawn[top:top + 8, left:left + 8] == value).all()
    labeled = mosaic(cells, ['a', 'long'], ['x', 'y', 'z'])
    np.testing.assert_array_equal(labeled[14 + GAP:, GAP + 28:], drawn[GAP:, GAP:])
    assert (labeled[:14 + GAP] < 128).any() and (labeled[:, :GAP + 28] < 128).any(), 'text'


def test_an_overlay_mixes_image_and_heat():
    rgb = np.full((4, 4, 3), 100, np.uint8)
    heat = np.array([[0., 0.], [0., 5.]])
    drawn = overlay(rgb, heat, cell=8)
    for place, value in (((0, 0), 0.), ((7, 7), 1.)):
        color = (255 * np.array(matplotlib.colormaps['inferno'](value)[:3])).round()
        np.testing.assert_allclose(drawn[place], 0.45 * 100 + 0.55 * color, atol=1)
    flat = overlay(rgb, np.array([[1., 1.], [1., 1. + 1e-8]]), cell=8)
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1, 'rounding is no pattern'


def test_colors_of_labels_are_not_mixed():
    """Two colors in columns of one pixel, on half the pixels."""
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[:, ::2] = 200
    assert np.unique(image_cell(rgb, cell=30)).size > 2
    assert set(np.unique(image_cell(rgb, cell=30, labels=True))) <= {0, 200}


def made_maps(targets, images=2, hw_shape=(3, 4)):
    """Maps ``(images, heads, N, N)`` in which each head looks at one token, whatever the query."""
    n = hw_shape[0] * hw_shape[1]
    maps = np.zeros((images, len(targets), n, n))
    for head, target in enumerate(targets):
        maps[:, head, :, target] = 1
    return maps


def cells_of(picture, rows, columns, labels):
    """The cells of a picture of :func:`mosaic`."""
    left, top = GAP + 7 * labels, GAP + 14
    return [[picture[top + r * (CELL + GAP):, left + c * (CELL + GAP):][:CELL, :CELL] for c in range(columns)]
            for r in range(rows)]


def test_factors_lie_side_by_side():
    rgb = np.stack([np.full((12, 16, 3), value, np.uint8) for value in (50, 90)])
    maps = dict(attention=made_maps([0, 11]), content=made_maps([5, 6]), position=made_maps([3, 8])[0])
    picture = side_by_side(rgb, maps, (3, 4))
    cells = cells_of(picture, 3, 5, len('position'))

    def of(target):
        values = np.zeros(12)
        values[target] = 1
        return map_cell(values.reshape(3, 4), query=(1, 2))  # the center

    assert (cells[0][0] == 255).all()
    for row in (1, 2):
        np.testing.assert_array_equal(cells[row][0], image_cell(rgb[row - 1], ((1, 2), (3, 4))))
        for column, target in enumerate((0, 11, 5, 6), start=1):
            np.testing.assert_array_equal(cells[row][column], of(target))
    for column, target in enumerate((3, 8), start=1):
        np.testing.assert_array_equal(cells[0][column], of(target))


def test_without_position_there_is_neither_top_row_nor_content():
    picture = side_by_side(np.zeros((2, 12, 16, 3), np.uint8), dict(attention=made_maps([0, 11])), (3, 4))
    assert picture.shape == (GAP + 14 + 2 * (CELL + GAP), GAP + 7 * len('image 0') + 3 * (CELL + GAP), 3)


@pytest.mark.parametrize('position', [True, False])
def test_heads_are_sorted_by_reach(position):
    rgb, below = np.zeros((1, 12, 16, 3), np.uint8), GAP + 14
    near_last = made_maps([11, 3, 6], 1)  # from (1, 2), which is token 6
    near_first = made_maps([6, 3, 11], 1)
    near_first = near_first[:, [0, 2, 1]]  # 11 = (2, 3) is as far as 3 = (0, 3); a stable order keeps 11 first
    if position:  # Φp decides, not Φa
        given, expected = (dict(attention=made_maps([0, 1, 2], 1), position=maps[0]) for maps in
                           (near_last, near_first))
        expected['attention'] = expected['attention'][:, [2, 0, 1]]
    else:
        given, expected = dict(attention=near_last), dict(attention=near_first)
    found = side_by_side(rgb, given, (3, 4), sort=True)
    np.testing.assert_array_equal(found[below:], side_by_side(rgb, expected, (3, 4))[below:])
    assert not np.array_equal(found[below:], side_by_side(rgb, given, (3, 4))[below:])


def test_mistakes_are_named():
    rgb, maps = np.zeros((1, 12, 16, 3), np.uint8), dict(attention=made_maps([0], 1))
    for query in ((3, 0), (0, 4), (-1, 0)):
        with pytest.raises(UserError, match=r'query \(--query\) must be a token \(row, column\) of the 3 x 4 grid, '
                                            rf'got \({query[0]}, {query[1]}\)'):
            side_by_side(rgb, maps, (3, 4), query)
    with pytest.raises(UserError, match=r"scale \(--scale\) must be one of .*'map', 'unit'.*, got 'log'"):
        side_by_side(rgb, maps, (3, 4), scale='log')


def test_a_legend_has_each_color_once_and_breaks_its_lines():
    colors = [(10 * k, 255 - 10 * k, 7) for k in range(5)]
    wide, narrow = legend('abcde', colors, 400), legend('abcde', colors, 80)
    assert wide.shape == (2 * GAP + 11, 400, 3) and narrow.shape == (GAP + 3 * (GAP + 11), 80, 3)  # two on a line
    for picture in (wide, narrow):
        for color in colors:
            assert (picture == color).all(-1).sum() == 11 * 11
        assert (picture < 150).all(-1).any(), 'names'
    assert (narrow[GAP + 11 + GAP:, GAP:GAP + 11] == colors[2]).all(-1).any()
