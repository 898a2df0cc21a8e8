"""The suite "gpu": what a card says, beside what was expected of it, in about nine minutes."""
import gc
import os
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Protocol

import torch

from ..ops.position_per_query_triton import VARIABLE
from ..utils.errors import UserError
from .gpu_estimates import ESTIMATES
from .gpu_subjects import Scale, Subject, gpu_subjects
from .settings import Rows, Settings

#: Seconds after which nothing is started that may take longer than what is left of them. The command has ten minutes.
BUDGET = 540.


class Timer(Protocol):
    """How a function is timed."""

    def reset(self) -> None:
        """Forget the last subject and its memory."""

    def times(self, run: Callable[[], object]) -> Sequence[float]:
        """Seconds of several calls, at least two."""

    def peak_gib(self) -> float:
        """Most memory since :meth:`reset`, in GiB."""


class CudaTimer:
    """Times by CUDA events around each call. The calls are queued without waiting in between, as in a training.

    Args:
        seconds (float): How long the timed calls take together, about. Defaults to 1.5.
        fewest, most (int): How many calls are timed. Default to 5 and 50.
        warmup (int): Calls before these. Defaults to 2.
    """

    def __init__(self, seconds: float = 1.5, fewest: int = 5, most: int = 50, warmup: int = 2) -> None:
        self.seconds, self.fewest, self.most, self.warmup = seconds, fewest, most, warmup

    def reset(self) -> None:
        """Free the memory of the last subject."""
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def times(self, run: Callable[[], object]) -> list[float]:
        """Seconds of each timed call, by the card's own clock."""
        for _ in range(self.warmup):
            run()
        first, = self._timed(run, 1)
        return self._timed(run, max(self.fewest, min(self.most, int(self.seconds / max(first, 1e-6)))))

    def peak_gib(self) -> float:
        """Most memory that tensors took, in GiB."""
        return torch.cuda.max_memory_allocated() / 2**30

    @staticmethod
    def _timed(run: Callable[[], object], count: int) -> list[float]:
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        torch.cuda.synchronize()
        for start, end in events:
            start.record()
            run()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in events]


def gpu(settings: Settings, oracle: ModuleType | None = None, timer: Timer | None = None,
        subjects: Sequence[Subject] | None = None, budget: float = BUDGET,
        clock: Callable[[], float] = time.monotonic) -> Rows:
    """Time the subjects one after the other until the time is up. Ratio: time over that of the first of a part.

    A subject that fails, because the card lacks a kernel or memory, is a line that says so. The others go on. Attention
    by cuDNN is off but for the subject of that name, as in ``tools/train.py``.

    Args:
        settings (Settings): With ``sizes`` and the first of ``batches``, images of a training step, 128 by default.
        oracle (ModuleType, optional): Has no effect.
        timer (Timer, optional): Times a function. Defaults to None, :class:`CudaTimer`.
        subjects (Sequence[Subject], optional): Defaults to None, :func:`gpu_subjects`.
        budget (float): Seconds for all subjects. Defaults to 540.
        clock (Callable): Returns the time in seconds. Defaults to ``time.monotonic``.

    Returns:
        Rows: A line for each subject: milliseconds, quartiles, ratio, the estimate of :data:`ESTIMATES`, and a note
        with the most memory.

    Raises:
        UserError: If there is no GPU, or the fused kernels for Φp are on, which the suite turns on by itself.
    """
    if timer is None:
        if not torch.cuda.is_available():
            raise UserError(f'--suite gpu needs a GPU, and torch {torch.__version__} sees none: run it where there is '
                            'one, or take another suite')
        timer = CudaTimer()
    if os.environ.get(VARIABLE) == '1':
        raise UserError(f'{VARIABLE}=1 is set, and --suite gpu compares both forms of Φp: unset it')
    torch.backends.cuda.enable_cudnn_sdp(False)
    if subjects is None:
        subjects = gpu_subjects(settings.sizes, Scale(batch=settings.batches_or(128)[0]))
    start, rows, base, left_out = clock(), [], {}, []
    for subject in subjects:
        row = {'part': subject.part, 'subject': subject.name, 'ms': '', 'quartiles': '', 'ratio': '',
               'estimate': ESTIMATES.get((subject.part, subject.name), ''), 'note': ''}
        rows.append(row)
        if clock() - start + subject.needs > budget:
            row['note'] = 'left out, no time'
            left_out.append(f'{subject.part}: {subject.name}')
            continue
        timer.reset()
        try:
            low, median, high = statistics.quantiles(timer.times(subject.build()), n=4, method='inclusive')
            row.update(ms=f'{1000 * median:.3f}', quartiles=f'{1000 * low:.3f} to {1000 * high:.3f}')
            row['note'] = f'{timer.peak_gib():.2f} GiB'
            row['ratio'] = f'{median / base.setdefault(subject.part, median):.3f}'
            if subject.note is not None:
                row['note'] += f', {subject.note()}'
        except Exception as error:  # an error of one subject would cost the results of a whole run
            traceback.print_exc()
            words = str(error).strip().splitlines() or ['']
            row['note'] = f'failed: {type(error).__name__}: {words[0][:100]}'.replace('|', '/')
        print(' | '.join(str(value) for value in row.values()), flush=True)
    if left_out:
        print(f'After {clock() - start:.0f} of {budget:.0f} s there was no time for {len(left_out)} of {len(rows)} '
              f'subjects: {"; ".join(left_out)}.')
    return rows
