"""One figure of a report, with its rule, unit, source, reference, and what it doesn't show."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .cases import Case


@dataclass
class Section:
    """One figure of the page.

    Attributes:
        key (str): Short name, for links and JSON.
        title (str): Heading.
        rule, unit, source, reference, caution (str): One or two sentences each, below the figure.
        pieces (list): SVG (str), or (RGB picture, what a reader who can't see it is told).
        data (dict): The same as numbers.
        tables (list): (header cells, rows) below the figure.
    """
    key: str
    title: str
    rule: str
    unit: str
    source: str
    reference: str
    caution: str
    pieces: list[str | tuple[np.ndarray, str]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    tables: list[tuple[Sequence[str], Sequence[Sequence[str]]]] = field(default_factory=list)


@dataclass
class View:
    """What of the cases is drawn.

    Attributes:
        queries (Sequence[tuple[int, int]]): Tokens whose maps are shown; none is the center.
        scale (str): 'map' or 'unit', see :func:`pervit_mm.analysis.mosaics.map_cell`.
        sort (bool): Whether heads are sorted by reach.
    """
    queries: Sequence[tuple[int, int]] = ()
    scale: str = 'map'
    sort: bool = False


def listed(values: Sequence[Any]) -> list:
    """Tensors and arrays as lists of numbers, for JSON."""
    return [np.asarray(value).tolist() for value in values]


def cases_with(cases: Sequence[Case], has: Callable[[Case], Any]) -> list[Case]:
    """Those cases that have something."""
    return [case for case in cases if has(case)]
