"""What the runs of tools/ablate.py came to: kept in a CSV, shown as tables."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..evaluation import write_csv
from ..utils.errors import UserError, told
from .paired import mean_and_deviation, paired_difference
from .raw_values import read_rows

#: What Φp is worth: where, and the rows with and without it.
EFFECTS = {'beside the convolution': ('full', 'no-position'), 'without it': ('no-cpe', 'no-position_no-cpe')}
#: Columns of the CSV.
_COLUMNS = ('setting', 'row', 'seed', 'top1', 'moved')


@dataclass(frozen=True)
class Ablation:
    """What the runs of a setting came to.

    Attributes:
        top1 (dict[str, dict[int, float]]): Accuracy in percent, by row and seed.
        moved (dict[str, dict[int, list[float]]]): How far Φp of each block moved, of the rows that logged it. Defaults
            to {}.
    """

    top1: dict[str, dict[int, float]]
    moved: dict[str, dict[int, list[float]]] = field(default_factory=dict)


def write_ablations(ablations: Mapping[str, Ablation], path: str | Path) -> None:
    """Write a line for each run.

    Args:
        ablations (Mapping[str, Ablation]): By setting.
        path (str | Path): The CSV.

    Raises:
        UserError: If the file cannot be made.
    """
    write_csv([dict(setting=setting, row=row, seed=seed, top1=value,
                    moved=' '.join(f'{shift:.3f}' for shift in ablation.moved.get(row, {}).get(seed, ())))
               for setting, ablation in ablations.items() for row, values in ablation.top1.items()
               for seed, value in values.items()], path)


def read_ablations(paths: Sequence[str | Path]) -> dict[str, Ablation]:
    """Read what :func:`write_ablations` wrote. Runs of one setting may be in several files.

    Args:
        paths (Sequence[str | Path]): The files.

    Returns:
        dict[str, Ablation]: By setting.

    Raises:
        UserError: If a file cannot be read or is another one, or a run is there twice.
    """
    found: dict[str, Ablation] = {}
    for path in paths:
        lines = read_rows(path, _COLUMNS, 'tools/ablate.py')
        with told(f'{str(path)!r} has a value that is no number', ValueError):
            runs = [(line['setting'], line['row'], int(line['seed']), float(line['top1']),
                     [float(shift) for shift in line['moved'].split()]) for line in lines]
        for setting, row, seed, top1, moved in runs:
            ablation = found.setdefault(setting, Ablation({}))
            values = ablation.top1.setdefault(row, {})
            if seed in values:
                raise UserError(f'{path} has seed {seed} of the row {row} of {setting} a second time: leave one of the '
                                'files out')
            values[seed] = top1
            if moved:
                ablation.moved.setdefault(row, {})[seed] = moved
    return found


def differences_table(ablation: Ablation, texts: Mapping[str, str], reference: str = 'full') -> list[dict[str, str]]:
    """Rows of a Markdown table: accuracy, and the difference to a reference.

    Args:
        ablation (Ablation): A setting.
        texts (Mapping[str, str]): What each row is.
        reference (str): The row that the others are compared with. Defaults to ``'full'``.

    Returns:
        list[dict[str, str]]: One for each row. Differences are left out if the reference is missing or has one seed.

    Raises:
        UserError: As :func:`paired_difference`.
    """
    table, column, top1 = [], f'to `{reference}`', ablation.top1
    for row, values in top1.items():
        line = {'row': f'`{row}`', 'what it is': texts[row], 'top-1': mean_and_deviation(values), column: '', 'p': ''}
        if row != reference and len(top1.get(reference, ())) > 1:
            difference = paired_difference(values, top1[reference])
            line.update({column: str(difference), 'p': difference.p_text})
        if ablation.moved:
            blocks = ablation.moved.get(row, {}).values()
            line['Φp moved'] = ' '.join(f'{sum(values) / len(values):.2f}' for values in zip(*blocks))
        table.append(line)
    return table


def effects_of_position(ablation: Ablation) -> dict[str, dict[int, float]]:
    """What Φp is worth, in points.

    Args:
        ablation (Ablation): A setting.

    Returns:
        dict[str, dict[int, float]]: By seed, for each of :data:`EFFECTS` whose two rows are there.
    """
    top1 = ablation.top1
    return {where: {seed: value - top1[without][seed] for seed, value in top1[row].items() if seed in top1[without]}
            for where, (row, without) in EFFECTS.items() if {row, without} <= top1.keys()}


def effects_table(ablation: Ablation) -> list[dict[str, str]]:
    """Rows of a Markdown table: what Φp is worth beside the convolution, without it, and the difference of the two.

    Args:
        ablation (Ablation): A setting.

    Returns:
        list[dict[str, str]]: Three, or none if a row of :data:`EFFECTS` is missing or there is one seed alone.

    Raises:
        UserError: As :func:`paired_difference`.
    """
    effects = effects_of_position(ablation)
    if len(effects) < len(EFFECTS) or min(map(len, effects.values())) < 2:
        return []
    lines = [(f'{where}, `{row}` less `{without}`', effects[where], None)
             for where, (row, without) in EFFECTS.items()]
    beside, alone = effects.values()
    table = []
    for text, values, reference in (*lines, ('the second less the first', alone, beside)):
        difference = paired_difference(values, reference or dict.fromkeys(values, 0.))
        table.append({'Φp': text, 'points': str(difference), 'p': difference.p_text})
    return table


def settings_table(ablations: Mapping[str, Ablation], texts: Mapping[str, str]) -> list[dict[str, str]]:
    """Rows of a Markdown table: what Φp is worth in each setting.

    Args:
        ablations (Mapping[str, Ablation]): By setting.
        texts (Mapping[str, str]): What each setting is.

    Returns:
        list[dict[str, str]]: One for each setting. An effect whose rows are missing is left empty.

    Raises:
        UserError: As :func:`paired_difference`.
    """
    table = []
    for setting, ablation in ablations.items():
        effects = effects_of_position(ablation)
        table.append({'setting': f'`{setting}`', 'what it is': texts[setting], **{
            where: str(paired_difference(effects[where], dict.fromkeys(effects[where], 0.)))
            if len(effects.get(where, ())) > 1 else '' for where in EFFECTS}})
    return table
