"""What all suites share."""
from collections.abc import Sequence
from dataclasses import dataclass

from .timing import Timing, run_case

Rows = list[dict[str, object]]


@dataclass(frozen=True)
class Settings:
    """What all suites share.

    Attributes:
        sizes (Sequence[str]): Sizes of PerViT. Defaults to tiny and small.
        batches (Sequence[int]): Batch sizes, in place of the suite's own; the suites "bf16" and "compile" take only the
            first. Defaults to (), the suite's own.
        pixels (Sequence[int]): Image sides of the suite "inference". Defaults to 224 and 384.
        repeats (int): Turns that count, at least 7. Defaults to 7.
        command (Sequence[str]): What runs a case of :func:`memory_case` in a process of its own: a script and its
            arguments. The name of the case is added as the last one. Defaults to (); suites that measure memory need
            it.
    """

    sizes: Sequence[str] = ('tiny', 'small')
    batches: Sequence[int] = ()
    pixels: Sequence[int] = (224, 384)
    repeats: int = 7
    command: Sequence[str] = ()

    def batches_or(self, *default: int) -> tuple[int, ...]:
        """``batches``, or else the suite's own batch sizes."""
        return tuple(self.batches) or default

    def first_call(self, case: str) -> dict[str, float]:
        """Peak memory and time of a case, measured in a process of its own, see :func:`run_case`."""
        return run_case([*self.command, case])


def row(timing: Timing, **labels: object) -> dict[str, object]:
    """A line of a table: labels, then the time and its ratio."""
    return dict(labels, **{
        'ms': f'{1000 * timing.median:.1f}',
        'ratio': f'{timing.ratio:.3f}',
        'quartiles': f'{timing.low:.3f} to {timing.high:.3f}'
    })
