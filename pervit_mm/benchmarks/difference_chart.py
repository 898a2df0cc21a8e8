"""A picture of how the rows of a table differ from one of them."""
from collections.abc import Mapping
from pathlib import Path

from ..utils.errors import told
from .paired import paired_difference


def draw_differences(rows: Mapping[str, Mapping[int, float]], reference: str, path: str | Path, label: str) -> None:
    """Draw the difference of each row to a reference: its mean with the 95 % interval, and a dot for each seed.

    Args:
        rows (Mapping[str, Mapping[int, float]]): Value by seed, by name of the row. The first is drawn at the top.
        reference (str): One of them. It is the line at 0.
        path (str | Path): The picture to write; its ending names the format, as ``.png`` or ``.svg``.
        label (str): What the values are, written below the axis.

    Raises:
        UserError: As :func:`paired_difference`, or if the picture cannot be written.
    """
    from matplotlib.figure import Figure  # here: other suites don't draw

    names = [name for name in rows if name != reference]
    figure = Figure(figsize=(7, 0.7 + 0.3 * len(names)), layout='constrained')
    axes = figure.subplots()
    axes.axvline(0, color='#888888', lw=1)
    for place, name in enumerate(names):
        found = paired_difference(rows[name], rows[reference])
        axes.plot([found.low, found.high], [place, place], color='#2b83ba', lw=1.6)
        axes.plot(found.mean, place, 'o', color='#2b83ba', ms=6)
        each = [rows[name][seed] - rows[reference][seed] for seed in sorted(rows[name].keys() & rows[reference].keys())]
        axes.plot(each, [place] * len(each), '|', color='#e08214', ms=9, mew=1.6)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(axis='x', alpha=0.3)
    with told(f'the picture {str(path)!r} cannot be written', OSError, ValueError):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
