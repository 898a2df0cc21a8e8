"""What :func:`pervit_mm.evaluation.measure` found, as CSV, as a table and as curves."""
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from ..utils.atomic_write import replacing
from ..utils.markdown import markdown_table

Row = Mapping[str, Any]


def summarize(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Mean and deviation over the seeds.

    Several checkpoints of one model, from trainings with different seeds, count as that model: the deviation is then
    between their means, because chance in training is what a claim about the model must survive.

    Args:
        rows (Sequence[Mapping]): Of :func:`measure`, each with the name of its ``model``, and with ``checkpoint`` where
            a model has several.

    Returns:
        list[dict]: For each ``model``, ``condition`` and ``level``, in the order of the rows: ``unit``, ``runs``,
        ``mean`` and ``deviation`` of the accuracy in percent, and the mean of ``removed`` (or None). ``runs`` counts
        what the deviation is over. The deviation is the sample standard deviation, with runs - 1 below; None for one
        run.
    """
    groups: dict[tuple, dict[Any, list[Row]]] = {}
    for row in rows:
        of_model = groups.setdefault((row['model'], row['condition'], row['level']), {})
        of_model.setdefault(row.get('checkpoint'), []).append(row)
    found = []
    for (model, condition, level), checkpoints in groups.items():
        runs = [run for of_checkpoint in checkpoints.values() for run in of_checkpoint]
        accuracies = [mean(run['accuracy'] for run in of_checkpoint) for of_checkpoint in checkpoints.values()]
        if len(accuracies) == 1:
            accuracies = [run['accuracy'] for run in runs]
        removed = [run['removed'] for run in runs if run['removed'] is not None]
        found.append(dict(model=model, condition=condition, level=level, unit=runs[0]['unit'], runs=len(accuracies),
                          mean=mean(accuracies), deviation=stdev(accuracies) if len(accuracies) > 1 else None,
                          removed=mean(removed) if removed else None))
    return found


def write_csv(rows: Sequence[Row], path: str | Path) -> None:
    """Write all rows, one line for each run. What a row has as None is left empty.

    Raises:
        UserError: If the file cannot be made.
    """
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def robustness_table(summary: Sequence[Row]) -> str:
    """Accuracies in percent as a Markdown table: a row for each condition and level, a column for each model.

    ``±`` gives the deviation over seeds. It is left out where one run says all. ``removed`` is the mean share of
    non-zero pixels that patch drop removed, of the first model.
    """
    lines: dict[tuple, dict[str, str]] = {}
    models = list(dict.fromkeys(item['model'] for item in summary))
    for item in summary:
        removed = '' if item['removed'] is None else f'{100 * item["removed"]:.0f} %'
        line = lines.setdefault((item['condition'], item['level']), {
            'condition': item['condition'], 'level': f'{item["level"]:g}', 'removed': removed,
            **dict.fromkeys(models, '')})
        spread = '' if item['deviation'] is None else f' ± {item["deviation"]:.1f}'
        line[item['model']] = f'{item["mean"]:.1f}{spread}'
    return markdown_table(list(lines.values()))


def draw_curves(summary: Sequence[Row], title: str) -> Figure:
    """Draw accuracy against level, a panel for each condition and a line for each model.

    Bars show the deviation over seeds. The thin line across is the accuracy on the unchanged images.

    Args:
        summary (Sequence[Mapping]): Of :func:`summarize`, with the condition ``clean`` for the lines across.
        title (str): Says what holds for all panels, such as the images and the source of the saliency.

    Returns:
        Figure: Of matplotlib, without pyplot.
    """
    models = list(dict.fromkeys(item['model'] for item in summary))
    panels = list(dict.fromkeys(item['condition'] for item in summary if item['condition'] != 'clean')) or ['clean']
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.2 * columns + 0.4, 2.6 * lines + 1.2), layout='constrained')
    all_axes = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
    for axes in all_axes[len(panels):]:
        axes.set_visible(False)
    for axes, condition in zip(all_axes, panels):
        for number, model in enumerate(models):
            items = [item for item in summary if item['model'] == model]
            points = [item for item in items if item['condition'] == condition]
            color, marker = f'C{number % 10}', 'osD^vPX'[number % 7]
            axes.errorbar([item['level'] for item in points], [item['mean'] for item in points],
                          [item['deviation'] or 0 for item in points], color=color, marker=marker, markersize=4,
                          linewidth=1.2, capsize=2, label=model)
            for item in items:
                if item['condition'] == 'clean':
                    axes.axhline(item['mean'], color=color, linewidth=0.6)
        unit, = {item['unit'] for item in summary if item['condition'] == condition}
        axes.set(title=condition.replace('_', ' '), xlabel=unit, ylim=(0, 100))
        axes.grid(linewidth=0.3)
    for axes in all_axes[::columns]:
        axes.set_ylabel('accuracy in %')
    figure.suptitle(title, fontsize='medium')
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=min(3, len(models)))
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG.

    Raises:
        UserError: If the file cannot be made.
    """
    with replacing(path) as file:
        figure.savefig(file, format='png', dpi=150)
