"""Many trainings by their own schedules, a few at a time, in runs that can be stopped and resumed."""
import json
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from mmengine.config import Config

from ..apis.configs import load_config
from ..engine.preflight import innermost_dataset
from ..utils.atomic_write import write_json
from ..utils.errors import UserError
from .equal_time import READING, call, scalars, test, threads_of_each
from .kept_scores import computed_by, fingerprint

#: Keys of MMEngine's log that are no metric.
_NO_METRIC = ('step', 'time', 'data_time', 'lr', 'base_lr', 'iter', 'epoch', 'memory')
#: What MMEngine's ``--cfg-options`` would take apart or leave out in a path.
_SEPARATORS = ' ,[]()'


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


def _own_config(work_dir: Path, config: str) -> Config | None:
    """The copy of its config that a training puts into its folder, options included, or None."""
    copy = work_dir / Path(config).name
    if not copy.is_file():
        return None
    with READING:
        return load_config(copy)


def is_finished(work_dir: str | Path, config: str) -> bool:
    """Whether a run saved the checkpoint of its last epoch or iteration, as its own copy of the config counts them."""
    cfg = _own_config(Path(work_dir), config)
    if cfg is None or not (Path(work_dir) / 'last_checkpoint').is_file():
        return False
    last = f'iter_{cfg.train_cfg.max_iters}' if 'max_iters' in cfg.train_cfg else f'epoch_{cfg.train_cfg.max_epochs}'
    return Path(last_checkpoint(work_dir)).stem == last


def validate_last(tool: str | Path, run: Run, work_dir: Path, threads: int | None = None) -> dict[str, float]:
    """Validate the last checkpoint of a run if its log has no validation of it.

    The last checkpoint is saved ahead of the last validation, so a run may be stopped between the two.

    Args:
        tool (str | Path): ``tools/train.py``. ``test.py`` is beside it.
        run (Run): The run, finished.
        work_dir (Path): Its folder.
        threads (int, optional): OpenMP threads. Defaults to None, which leaves it to the environment.

    Returns:
        dict[str, float]: Metrics; none if the log has them, or the run doesn't validate.

    Raises:
        UserError: If the process fails.
    """
    cfg = _own_config(work_dir, run.config)
    if cfg is None or cfg.get('val_evaluator') is None:
        return {}
    last = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs
    # MMEngine times a validation too. Its lines have no loss, and lines of hooks have no time.
    if any('time' in line and 'loss' not in line and line.get('step') == last for line in scalars(work_dir)):
        return {}
    for part in ('dataloader', 'evaluator', 'cfg'):
        cfg[f'test_{part}'] = cfg[f'val_{part}']
    config = work_dir / f'validate_{Path(run.config).name}'
    cfg.dump(config)
    return test(Path(tool).with_name('test.py'), str(config), last_checkpoint(work_dir), work_dir, threads=threads)


def _made_of(run: Run, root: Path) -> tuple[dict, list[str]]:
    """What a run depends on, and its options with paths in place of names in braces."""
    options, starts = list(run.options), {}
    for other in (path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else ():
        if f'{{{other}}}' in ' '.join(options):
            checkpoint = last_checkpoint(root / other)
            starts[other] = fingerprint(checkpoint)
            options = [option.replace(f'{{{other}}}', checkpoint) for option in options]
    with READING:
        cfg = load_config(run.config)
    settings = dict(config=Path(run.config).name, seed=run.seed, options=list(run.options),
                    contents=sha256(cfg.dump().encode()).hexdigest()[:8], starts=starts, **computed_by())
    values = dict(option.split('=', 1) for option in run.options)
    # Files that options name, and what the tools that draw data sets wrote beside them about how.
    files = [value for value in values.values() if Path(value).is_file()]
    where, dataset = innermost_dataset(cfg, 'train_dataloader')
    folder = values.get(f'{where}.data_root') or (dataset or {}).get('data_root')
    if folder:
        files += sorted(map(str, Path(folder).glob('*.json')))
    if files:
        settings['files'] = {file: fingerprint(file) for file in files}
    return settings, options


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
        UserError: If the folder has a run with other settings, or one that no queue started, or the process fails.
    """
    work_dir = Path(root) / run.name
    settings, options = _made_of(run, Path(root))
    plan, result = work_dir / 'settings.json', work_dir / 'result.json'
    if plan.is_file():
        old = json.loads(plan.read_text())
        if old != settings:
            raise UserError(f'{work_dir} has a run with other settings, {old}, not {settings}: remove it, or choose '
                            'another root')
    elif (work_dir / 'last_checkpoint').is_file():
        raise UserError(f'{work_dir} has a training that another command started, and nothing says by which settings: '
                        'remove it, or choose another root')
    if result.is_file():
        return json.loads(result.read_text())
    work_dir.mkdir(parents=True, exist_ok=True)
    write_json(plan, settings)
    if not is_finished(work_dir, run.config):  # a queue may be stopped between a training's end and its result
        command = [sys.executable, str(tool), run.config, '--work-dir', str(work_dir), '--seed', str(run.seed),
                   '--resume', *(('--cfg-options', *options) if options else ())]
        call(command, work_dir, run.name, threads)
    metrics = {key: value for line in scalars(work_dir) for key, value in line.items() if key not in _NO_METRIC}
    metrics.update(validate_last(tool, run, work_dir, threads))
    write_json(result, metrics)
    return metrics


def train_all(tool: str | Path, runs: Sequence[Run], root: str | Path, jobs: int = 1) -> dict[str, dict[str, float]]:
    """Train runs in their order, a few at a time. A failed run stops the queue.

    OpenMP threads of each: see :func:`~pervit_mm.benchmarks.equal_time.threads_of_each`.

    Args:
        tool (str | Path): ``tools/train.py``.
        runs (Sequence[Run]): A run whose options name another one waits for it.
        root (str | Path): Folder of all runs.
        jobs (int): Runs at a time. Defaults to 1.

    Returns:
        dict[str, dict[str, float]]: Metrics by name, see :func:`train_once`.

    Raises:
        UserError: If two runs have one name, a run names one that doesn't come earlier, ``root`` cannot be part of an
            option, or a training fails.
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
    if any(run.needs(names) for run in runs) and set(_SEPARATORS) & set(str(root)):
        raise UserError(f'root must have no space, comma or bracket, because runs start from checkpoints in it, got '
                        f'{str(root)!r}: choose another folder')
    futures: dict[str, Future] = {}

    def work(run: Run) -> dict[str, float]:
        for name in run.needs(names):
            futures[name].result()  # queues are first in, first out, so it has started already
        return train_once(tool, run, root, threads_of_each(jobs))

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
