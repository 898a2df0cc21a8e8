"""Many trainings by their own schedules, a few at a time, in runs that can be stopped and resumed."""
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ..apis.configs import load_config
from ..utils.atomic_write import write_json
from ..utils.errors import UserError
from .equal_time import READING, call, scalars

#: Keys of MMEngine's log that are no metric.
_NO_METRIC = ('step', 'time', 'data_time', 'lr', 'base_lr', 'iter', 'epoch', 'memory')
#: What hooks write in training begins with one of these. Everything else with a slash is of a validation.
_TRAINING = ('knn/', 'position_shift/')


@dataclass(frozen=True)
class Run:
    """A training.

    Attributes:
        name (str): Names the run and its folder.
        config (str): Path of the config.
        seed (int): Random seed.
        options (tuple[str, ...]): ``KEY=VALUE`` for ``--cfg-options``. ``{name}`` of another run in braces stands for
            the last checkpoint of that run, which has to come earlier in the queue. Defaults to ().
    """

    name: str
    config: str
    seed: int
    options: tuple[str, ...] = ()

    def needs(self, names: Sequence[str]) -> list[str]:
        """Those of other runs whose checkpoint the options ask for."""
        return [name for name in names if any(f'{{{name}}}' in option for option in self.options)]


def last_checkpoint(work_dir: str | Path) -> str:
    """Path of the last checkpoint that a run saved.

    Args:
        work_dir (str | Path): The run's folder.

    Returns:
        str: The path.

    Raises:
        UserError: If there is none.
    """
    note = Path(work_dir) / 'last_checkpoint'
    if not note.is_file():
        raise UserError(f'{work_dir} has no checkpoint: its training did not reach the first one, see its output.txt')
    return str(Path(work_dir) / Path(note.read_text().strip()).name)


def is_finished(work_dir: str | Path, config: str) -> bool:
    """Whether a run saved the checkpoint of its last epoch or iteration, as its own copy of the config counts them."""
    copy = Path(work_dir) / Path(config).name
    if not copy.is_file() or not (Path(work_dir) / 'last_checkpoint').is_file():
        return False
    with READING:
        train_cfg = load_config(copy).train_cfg
    last = f'iter_{train_cfg.max_iters}' if 'max_iters' in train_cfg else f'epoch_{train_cfg.max_epochs}'
    return Path(last_checkpoint(work_dir)).stem == last


def is_unmeasured(work_dir: str | Path, config: str, metrics: Mapping[str, float]) -> bool:
    """Whether a run should have validated, and its log has no metric of a validation."""
    copy = Path(work_dir) / Path(config).name
    if not copy.is_file():
        return False
    with READING:
        validates = load_config(copy).get('val_evaluator') is not None
    return validates and not any('/' in key and not key.startswith(_TRAINING) for key in metrics)


def train_once(tool: str | Path, run: Run, root: str | Path, threads: int | None = None) -> dict[str, float]:
    """Train a run in a process of its own, or resume it. A finished run is not repeated.

    Args:
        tool (str | Path): ``tools/train.py``.
        run (Run): The run.
        root (str | Path): Folder of all runs.
        threads (int, optional): OpenMP threads. Defaults to None, which leaves it to the environment.

    Returns:
        dict[str, float]: The last value of each metric in the log.

    Raises:
        UserError: If the folder has a run with other settings, or the process fails.
    """
    work_dir = Path(root) / run.name
    options, starts = list(run.options), {}
    for other in (path.name for path in Path(root).iterdir() if path.is_dir()) if Path(root).is_dir() else ():
        if f'{{{other}}}' in ' '.join(options):
            checkpoint = last_checkpoint(Path(root) / other)
            starts[other] = int(os.path.getmtime(checkpoint))
            options = [option.replace(f'{{{other}}}', checkpoint) for option in options]
    with READING:
        contents = load_config(run.config).dump()
    settings = dict(config=Path(run.config).name, seed=run.seed, options=list(run.options),
                    contents=sha256(contents.encode()).hexdigest()[:8], starts=starts)
    plan, result = work_dir / 'settings.json', work_dir / 'result.json'
    if plan.is_file():
        old = json.loads(plan.read_text())
        if old != settings:
            raise UserError(f'{work_dir} has a run with other settings, {old}, not {settings}: remove it, or choose '
                            'another root')
    if result.is_file():
        return json.loads(result.read_text())
    work_dir.mkdir(parents=True, exist_ok=True)
    write_json(plan, settings)
    if not is_finished(work_dir, run.config):  # a queue may be stopped between a training's end and its result
        command = [sys.executable, str(tool), run.config, '--work-dir', str(work_dir), '--seed', str(run.seed),
                   '--resume', *(('--cfg-options', *options) if options else ())]
        call(command, work_dir, run.name, threads)
    metrics = {key: value for line in scalars(work_dir) for key, value in line.items() if key not in _NO_METRIC}
    if is_unmeasured(work_dir, run.config, metrics):
        raise UserError(f'training {run.name} is finished and was stopped in its last validation: remove '
                        f'{last_checkpoint(work_dir)} and {work_dir}/last_checkpoint, and start again')
    write_json(result, metrics)
    return metrics


def train_all(tool: str | Path, runs: Sequence[Run], root: str | Path, jobs: int = 1,
              threads: int | None = None) -> dict[str, dict[str, float]]:
    """Train runs in their order, a few at a time. A failed run stops the queue.

    Args:
        tool (str | Path): ``tools/train.py``.
        runs (Sequence[Run]): A run whose options name another one waits for it.
        root (str | Path): Folder of all runs.
        jobs (int): Runs at a time. Defaults to 1.
        threads (int, optional): OpenMP threads of each. Defaults to None, which leaves it to the environment.

    Returns:
        dict[str, dict[str, float]]: Metrics by name, see :func:`train_once`.

    Raises:
        UserError: If two runs have one name, a run names one that doesn't come earlier, or a training fails.
    """
    if type(jobs) is not int or jobs < 1:
        raise UserError(f'jobs must be a positive number of runs at a time, got {jobs!r}')
    names = [run.name for run in runs]
    for place, run in enumerate(runs):
        if run.name in names[:place]:
            raise UserError(f'runs must have names of their own, got {run.name!r} twice')
        later = run.needs(names[place:])
        if later:
            raise UserError(f'{run.name} starts from {later[0]}, which must come earlier in the queue')
    futures: dict[str, Future] = {}

    def work(run: Run) -> dict[str, float]:
        for name in run.needs(names):
            futures[name].result()  # queues are first in, first out, so it has started already
        return train_once(tool, run, root, threads)

    with ThreadPoolExecutor(jobs) as pool:
        for run in runs:
            futures[run.name] = pool.submit(work, run)
        try:
            done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()  # raises what a training raised
            return {name: future.result() for name, future in futures.items()}
        except BaseException:  # running trainings may end, and no other starts
            pool.shutdown(cancel_futures=True)
            raise
