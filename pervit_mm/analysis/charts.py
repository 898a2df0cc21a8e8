"""Charts of a study as SVG that takes on the text color of its page, for light, dark and print."""
import io
import re
import zlib
from collections.abc import Sequence
from itertools import cycle

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Colors of Φp, Φc and Φa: told apart in gray and by the color-blind, and seen on white and on black.
COLORS = dict(position='#2b83ba', content='#e08214', attention='#4d9d55')
NAMES = dict(position='Φp', content='Φc', attention='Φa')
#: Colors of rings, from the center outward, and of further lines.
RING_COLORS = ('#b2182b', '#ef8a62', '#67a9cf', '#2166ac', '#7b6fb0', '#999999')
LINE_COLORS = ('#2b83ba', '#e08214', '#4d9d55', '#b2182b', '#7b6fb0')
#: Text and axes get this color while drawn. In the SVG it becomes the color of the surrounding text.
_INK = '#010203'
_SETTINGS = {
    'svg.fonttype': 'none', 'font.family': 'sans-serif', 'font.size': 9, 'text.color': _INK, 'axes.edgecolor': _INK,
    'axes.labelcolor': _INK, 'xtick.color': _INK, 'ytick.color': _INK, 'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.titlesize': 9,
}


class Chart:
    """A row of panels that becomes one SVG.

    Args:
        panels (int): Number of panels.
        width (float): Width of a panel in inches. Defaults to 3.6.
        height (float): Height in inches. Defaults to 2.4.
        share_y (bool): Whether panels have one vertical axis. Defaults to True.
    """

    def __init__(self, panels: int, width: float = 3.6, height: float = 2.4, share_y: bool = True) -> None:
        with matplotlib.rc_context(_SETTINGS):
            self.figure = Figure(figsize=(width * panels, height), layout='constrained')
            self.axes: list[Axes] = list(self.figure.subplots(1, panels, sharey=share_y, squeeze=False)[0])

    def svg(self, label: str) -> str:
        """The chart as SVG, without a header, for a page.

        Args:
            label (str): What a reader who can't see it is told. It also makes the names inside the SVG its own.

        Returns:
            str: The element.
        """
        out = io.StringIO()
        with matplotlib.rc_context({**_SETTINGS, 'svg.hashsalt': label}):
            self.figure.savefig(out, format='svg', transparent=True, metadata={'Date': None, 'Creator': None})
        svg = out.getvalue()
        svg = re.sub(r'<metadata>.*?</metadata>', '', svg[svg.index('<svg'):], flags=re.S).replace(_INK, 'currentColor')
        # An image is named after its pixels, so color bars have one name. Nothing refers to it.
        svg = re.sub(r'(<image [^>]*?) id="[^"]+"', r'\1', svg)
        # Names repeat between charts on one page, and the first one would win.
        mark = f's{zlib.crc32(label.encode()):08x}'
        svg = re.sub(r'id="([^"]+)"', rf'id="{mark}-\1"', svg)
        svg = re.sub(r'(url\(#|href="#)', rf'\g<1>{mark}-', svg)
        size = re.search(r'viewBox="0 0 ([\d.]+)', svg)[1]
        return re.sub(r'<svg [^>]*?(viewBox="[^"]+")[^>]*>',
                      lambda found: f'<svg role="img" aria-label="{_escape(label)}" {found[1]} '
                      f'style="width:100%;max-width:{size}pt;height:auto">', svg, count=1)


def _escape(text: str) -> str:
    return text.replace('&', '&amp;').replace('<', '&lt;').replace('"', '&quot;')


def dots_by_block(axes: Axes, heads: dict[str, Sequence[np.ndarray]], reference: Sequence[float] | None = None,
                  reference_label: str = 'uniform') -> None:
    """A dot for each head and a line through their means, by block.

    Args:
        axes (Axes): The panel.
        heads (dict[str, Sequence[np.ndarray]]): For 'position', 'content' or 'attention', ``(nH,)`` for each block.
        reference (Sequence[float], optional): A dashed line, one value for each block. Defaults to None.
        reference_label (str): Its name. Defaults to 'uniform'.
    """
    for shift, (factor, blocks) in zip((-0.15, 0, 0.15), heads.items()):
        for block, values in enumerate(blocks):
            axes.plot([block + shift] * len(values), values, '.', color=COLORS[factor], alpha=0.7, ms=4)
        axes.plot(np.arange(len(blocks)) + shift, [np.asarray(v).mean() for v in blocks], color=COLORS[factor],
                  label=NAMES[factor], lw=1.4)
    if reference is not None:
        axes.plot(reference, '--', color='#888888', lw=1, label=reference_label)
    by_block(axes, len(next(iter(heads.values()))))
    axes.legend(fontsize=8, frameon=False, labelcolor=_INK)


def lines_by_block(axes: Axes, lines: dict[str, Sequence[float]]) -> None:
    """Named lines, one value for each block."""
    for color, (name, values) in zip(cycle(LINE_COLORS), lines.items()):
        axes.plot(values, '.-', color=color, label=name, lw=1.4, ms=5)
    by_block(axes, max(map(len, lines.values())))
    axes.legend(fontsize=8, frameon=False, labelcolor=_INK)


def bars_by_block(axes: Axes, shares: Sequence[np.ndarray], uniform: np.ndarray) -> None:
    """Stacked shares of rings by block, and those of uniform attention at the right.

    Args:
        axes (Axes): The panel.
        shares (Sequence[np.ndarray]): ``(rings,)`` for each block.
        uniform (np.ndarray): ``(rings,)``, beside them.
    """
    stacked = np.array([*shares, uniform])
    places = [*range(len(shares)), len(shares) + 0.5]
    bottom = np.zeros(len(stacked))
    for ring, color in zip(range(stacked.shape[1]), cycle(RING_COLORS)):
        axes.bar(places, stacked[:, ring], 0.85, bottom=bottom, color=color)
        bottom += stacked[:, ring]
    axes.set_xticks(places, [*map(str, range(len(shares))), 'uniform'])
    axes.set_xlabel('block')
    axes.set_ylim(0, 1)


def pie(axes: Axes, shares: np.ndarray, labels: Sequence[str]) -> None:
    """Shares of rings as a pie, with percentages."""
    # The wedges carry their shares; a white line would vanish on one of the two backgrounds.
    axes.pie(shares, labels=[f'{label} {100 * share:.0f} %' for label, share in zip(labels, shares)],
             colors=RING_COLORS[:len(shares)], startangle=90, counterclock=False,
             textprops=dict(fontsize=8, color=_INK))


def heat_map(chart: Chart, axes: Axes, values: np.ndarray, low: float | None = None, high: float | None = None,
             origin: str = 'lower') -> None:
    """Values as colors with a color bar."""
    drawn = axes.imshow(values, origin=origin, vmin=low, vmax=high, cmap='viridis', interpolation='nearest')
    with matplotlib.rc_context(_SETTINGS):
        chart.figure.colorbar(drawn, ax=axes, shrink=0.8)


def by_block(axes: Axes, blocks: int) -> None:
    """Label the horizontal axis with block numbers."""
    axes.set_xticks(range(blocks))
    axes.set_xlabel('block')
