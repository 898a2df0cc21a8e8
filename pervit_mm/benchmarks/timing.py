"""Timing several subjects side by side, and peak memory in processes of their own.

A machine's speed drifts. So subjects take turns (A B A B …) in one run, and are compared by the ratio of their times in
the same turn. Figures are medians.
"""
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from ..utils.errors import UserError


class Timing(NamedTuple):
    """Times of one subject.

    Attributes:
        median (float): Seconds for one call.
        ratio (float): This subject's time over the first subject's in the same turn; median over turns.
        low, high (float): Quartiles of that ratio.
    """

    median: float
    ratio: float
    low: float
    high: float


def interleave(subjects: Mapping[str, Callable[[], object]], repeats: int = 7, warmup: int = 2,
               clock: Callable[[], float] = time.perf_counter) -> dict[str, Timing]:
    """Time subjects in turns.

    Args:
        subjects (Mapping[str, Callable]): What to call, by name. Ratios are to the first subject.
        repeats (int): Turns that count, at least 7. Defaults to 7.
        warmup (int): Turns before these that don't count. Defaults to 2.
        clock (Callable): Returns the time in seconds. Defaults to ``time.perf_counter``.

    Returns:
        dict[str, Timing]: By name, in the same order.

    Raises:
        UserError: If there is no subject, ``repeats`` is below 7, or ``warmup`` is negative.
    """
    if not subjects or repeats < 7 or warmup < 0:
        raise UserError('interleave needs a subject, at least 7 repeats and no negative warmup, '
                        f'got {list(subjects)}, {repeats} and {warmup}')
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for turn in range(warmup + repeats):
        for name, run in subjects.items():
            synchronize()
            start = clock()
            run()
            synchronize()
            if turn >= warmup:
                times[name].append(clock() - start)
    first = next(iter(times.values()))
    timings = {}
    for name, values in times.items():
        ratios = [value / base for value, base in zip(values, first)]
        low, _, high = statistics.quantiles(ratios, n=4, method='inclusive')
        timings[name] = Timing(statistics.median(values), statistics.median(ratios), low, high)
    return timings


def synchronize() -> None:
    """Wait for CUDA, if there is a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def first_call(case: Callable[[], Callable[[], object]]) -> dict[str, float]:
    """Build something and call it once, in a process that has done nothing else, see :func:`run_case`.

    On the CPU this needs Linux.

    Args:
        case (Callable): Builds something, and returns the function to call.

    Returns:
        dict[str, float]: ``peak_mib``, how far this process's memory peaked above its state before building; and
        ``seconds``, the time of the call alone.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        # Reset the peak to the memory in use now. The peak of getrusage won't do: a new process inherits its parent's.
        with open('/proc/self/clear_refs', 'w') as file:
            file.write('5')
        before = _peak_mib()
    run = case()
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    seconds = time.perf_counter() - start
    if torch.cuda.is_available():
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    else:
        peak = _peak_mib() - before
    return dict(peak_mib=peak, seconds=seconds)


def _peak_mib() -> float:
    """Peak resident memory of this process, in MiB."""
    with open('/proc/self/status') as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 2**10


def run_case(command: Sequence[str]) -> dict[str, float]:
    """Run a Python command whose last line of output is the result of :func:`first_call` as JSON, and return it.

    Raises:
        RuntimeError: If the command fails. The message has the end of its error output.
    """
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f'the case {" ".join(command)} failed: {done.stderr[-1000:]}')
    return json.loads(done.stdout.strip().splitlines()[-1])


def environment() -> dict[str, str]:
    """What the figures depend on: device, threads, versions."""
    versions = dict(python=platform.python_version(), torch=torch.__version__)
    if not torch.cuda.is_available():
        return dict(device=f'{_processor()}, {torch.get_num_threads()} threads', **versions)
    try:
        import triton
        versions['triton'] = triton.__version__
    except ImportError:
        versions['triton'] = 'none'
    capability = '.'.join(map(str, torch.cuda.get_device_capability()))
    return dict(device=f'{torch.cuda.get_device_name()}, compute capability {capability}', **versions,
                cuda=str(torch.version.cuda), cudnn=str(torch.backends.cudnn.version()))


def _processor() -> str:
    """Name of the CPU from Linux's /proc/cpuinfo, or the machine type if it isn't there."""
    try:
        with open('/proc/cpuinfo') as lines:
            names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
