"""Pictures of differences: of the rows of a table to one of them, and of effects in several settings."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.errors import told
from .paired import paired_difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SEEDS = '#e08214'
_COLORS = ('#2b83ba', '#1a9850', '#762a83')


def draw_differences(rows: Mapping[str, Mapping[int, float]], reference: str, path: str | Path, label: str) -> None:
    """Draw the difference of each row to a reference: its mean with the 95 % interval, and a mark for each seed.

    Args:
        rows (Mapping[str, Mapping[int, float]]): Value by seed, by name of the row. The first is drawn at the top.
        reference (str): One of them. It is the line at 0.
        path (str | Path): The picture to write; its ending names the format, as ``.png`` or ``.svg``.
        label (str): What the values are, written below the axis.

    Raises:
        UserError: As :func:`paired_difference`, or if the picture cannot be written.
    """
    names = [name for name in rows if name != reference]
    figure, axes = _axes(names, label)
    for place, name in enumerate(names):
        _interval(axes, place, {seed: value - rows[reference][seed] for seed, value in rows[name].items()
                                if seed in rows[reference]})
    _save(figure, path)


def draw_effects(effects: Mapping[str, Mapping[str, Mapping[int, float]]], path: str | Path, label: str) -> None:
    """Draw effects in several settings: the mean of each with the 95 % interval, and a mark for each seed.

    Args:
        effects (Mapping[str, Mapping[str, Mapping[int, float]]]): Differences by seed, by name of the effect, by
            setting. Up to three effects, each with a color of its own. A setting may lack one.
        path (str | Path): As :func:`draw_differences`.
        label (str): Likewise.

    Raises:
        UserError: As :func:`draw_differences`.
    """
    kinds = list(dict.fromkeys(kind for of_setting in effects.values() for kind in of_setting))
    assert len(kinds) <= len(_COLORS), kinds
    figure, axes = _axes(list(effects), label, 0.24 * len(kinds) + 0.2)
    for place, of_setting in enumerate(effects.values()):
        for number, (kind, color) in enumerate(zip(kinds, _COLORS)):
            if kind in of_setting:
                _interval(axes, place + 0.3 * (number - (len(kinds) - 1) / 2), of_setting[kind], color)
    for kind, color in zip(kinds, _COLORS):
        axes.plot([], [], 'o-', color=color, label=kind)
    axes.legend(frameon=False, loc='best')
    _save(figure, path)


def _axes(names: Sequence[str], label: str, height: float = 0.3) -> 'tuple[Figure, Axes]':
    """A figure with a line of so many inches for each name, the first at the top, and a line at 0."""
    from matplotlib.figure import Figure  # here: other suites don't draw

    figure = Figure(figsize=(7, 0.7 + height * len(names)), layout='constrained')
    axes = figure.subplots()
    axes.axvline(0, color='#888888', lw=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(axis='x', alpha=0.3)
    return figure, axes


def _interval(axes: 'Axes', place: float, differences: Mapping[int, float], color: str = _COLORS[0]) -> None:
    """The mean of differences by seed, its interval, and each of them."""
    found = paired_difference(differences, dict.fromkeys(differences, 0.))
    axes.plot([found.low, found.high], [place, place], color=color, lw=1.6)
    axes.plot(found.mean, place, 'o', color=color, ms=6)
    axes.plot(list(differences.values()), [place] * len(differences), '|', color=_SEEDS, ms=9, mew=1.6)


def _save(figure: 'Figure', path: str | Path) -> None:
    """Write the picture."""
    with told(f'the picture {str(path)!r} cannot be written', OSError, ValueError):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
