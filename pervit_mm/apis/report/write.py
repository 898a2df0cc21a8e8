"""Making a report of one or two models."""
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...utils.atomic_write import replacing
from ..dense_features import make_folder
from .cases import Case
from .page import render
from .section import View
from .sections import SECTIONS

#: Names of the files in the output folder.
PAGE, NUMBERS = 'report.html', 'report.json'


def make_report(cases: Sequence[Case], out_dir: str | Path, view: View | None = None) -> Path:
    """Write ``report.html`` and ``report.json``.

    Args:
        cases (Sequence[Case]): One model, or two that are compared.
        out_dir (str | Path): Output folder; it is made.
        view (View, optional): What is drawn. Defaults to None, the center query in its own colors.

    Returns:
        Path: The page.

    Raises:
        UserError: If the folder cannot be made or written to.
    """
    out_dir, view = make_folder(out_dir), view or View()
    sections = [section for make in SECTIONS if (section := make(cases, view)) is not None]
    facts = (['model', 'backbone', 'blocks', 'grid', 'images'],
             [[case.name, case.kind, str(case.study.blocks), ' → '.join(_grids(case)), str(case.study.images)]
              for case in cases])
    absent = [f'{case.name}: {reason}' if len(cases) > 1 else reason
              for case in cases for reason in dict.fromkeys(case.skipped.values())]
    title = 'What the network sees: ' + ' and '.join(case.name for case in cases)
    page = out_dir / PAGE
    numbers = dict(
        models=[dict(name=case.name, backbone=case.kind, grids=case.study.grids, heads=case.study.heads,
                     images=case.names, skipped=case.skipped) for case in cases],
        figures={section.key: dict(
            title=section.title, rule=section.rule, unit=section.unit, source=section.source,
            reference=section.reference, caution=section.caution, data=section.data) for section in sections})
    with replacing(out_dir / NUMBERS) as file:
        file.write(json.dumps(_plain(numbers), indent=1, ensure_ascii=False, allow_nan=False).encode())
    with replacing(page) as file:
        file.write(render(title, facts, sections, absent, NUMBERS).encode())
    return page


def _grids(case: Case) -> list[str]:
    """Grids of a model, without repetition."""
    return [f'{h} x {w}' for h, w in dict.fromkeys(case.study.grids)]


def _plain(value: Any) -> Any:
    """The same with numbers of six digits; what JSON has no number for becomes null."""
    if isinstance(value, float):
        return float(f'{value:.6g}') if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
