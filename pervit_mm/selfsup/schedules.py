"""Values that change over a run: each a function of the share of the run that is done."""
from math import cos, pi


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from ``start`` to ``end``.

    Args:
        start (float): Value at ``progress`` 0.
        end (float): Value at ``progress`` 1.
        progress (float): Share of the run that is done, from 0 to 1.

    Returns:
        float: The value.
    """
    return end + (start - end) * (1 + cos(pi * progress)) / 2


def warm_up(start: float, end: float, share: float, progress: float) -> float:
    """Linear from ``start`` to ``end`` over the first ``share`` of the run, then ``end``.

    Args:
        start (float): Value at ``progress`` 0.
        end (float): Value from ``progress`` = ``share`` on.
        share (float): Length of the warm-up, from 0 to 1.
        progress (float): Share of the run that is done, from 0 to 1.

    Returns:
        float: The value.
    """
    return end if progress >= share else start + (end - start) * progress / share
