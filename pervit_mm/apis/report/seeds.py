"""Reports of several seeds in one table: mean ± deviation by block."""
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from ...utils.errors import UserError, told
from ...utils.markdown import markdown_table

#: Row of the table: figure and entry of ``report.json``, and what the row is called. Entries are by block.
ROWS = (
    ('distance', 'position', 'distance of Φp (tokens)'), ('distance', 'content', 'distance of Φc (tokens)'),
    ('distance', 'attention', 'distance of Φa (tokens)'), ('entropy', 'entropy', 'entropy of Φa (nats)'),
    ('impact', 'share', 'share of position'), ('impact', 'js_position', 'divergence Φa to Φp (nats)'),
    ('impact', 'js_content', 'divergence Φa to Φc (nats)'), ('tokens', 'uniformity', 'cosine between tokens'))


def read_report(path: str | Path) -> dict:
    """Read ``report.json``, or raise UserError.

    Args:
        path (str | Path): Written by :func:`pervit_mm.apis.report.make_report`.

    Returns:
        dict: What it holds.
    """
    with told(f'report {str(path)!r} cannot be read', OSError, ValueError):
        content = json.loads(Path(path).read_text(encoding='utf-8'))
    if not isinstance(content, dict) or not {'models', 'figures'} <= content.keys() or len(content['models']) != 1:
        raise UserError(f'report {str(path)!r} is no report.json of one model: give files that report.py wrote')
    return content


def seeds_table(paths: Sequence[str | Path]) -> str:
    """Mean ± sample standard deviation over reports, of each measure by block; heads and images are averaged first.

    Args:
        paths (Sequence[str | Path]): ``report.json`` of each seed, each of one model of the same depth.

    Returns:
        str: A Markdown table. A row without a measure in all reports is left out.

    Raises:
        UserError: If there are fewer than two reports, or they are of different models or images, or have no
            measure in common.
    """
    if len(paths) < 2:
        raise UserError(f'reports must be at least two, one for each seed, got {len(paths)}')
    reports = [read_report(path) for path in paths]
    models = [report['models'][0] for report in reports]
    for key in ('name', 'grids', 'images'):
        if any(model[key] != models[0][key] for model in models):
            raise UserError('reports must be of one model with different seeds, on the same images, and they differ '
                            f'in {key}: give reports of one config')
    rows = []
    for figure, entry, name in ROWS:
        found = [_by_block(report, figure, entry) for report in reports]
        if None not in found:
            rows.append({'measure': name, **{f'block {i}': f'{mean(block):.2f} ± {stdev(block):.2f}'
                                             for i, block in enumerate(zip(*found))}})
    if not rows:
        raise UserError('reports have no measure by block in common: they are of a model without attention')
    return markdown_table(rows)


def _by_block(report: dict, figure: str, entry: str) -> list[float] | None:
    """One value for each block of the first model; None where the report lacks it."""
    data = report['figures'].get(figure, {}).get('data', {}).get(report['models'][0]['name'], {}).get(entry)
    if data is None or any(None in value if isinstance(value, list) else value is None for value in data):
        return None  # not measured, or not a number in some block
    return [mean(value) if isinstance(value, list) else value for value in data]
