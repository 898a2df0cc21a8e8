"""Training several configs for the same time each, in runs that can be stopped and resumed."""
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from threading import Lock

from ..apis.configs import load_config
from ..utils.atomic_write import write_json
from ..utils.errors import UserError
from .kept_scores import computed_by

#: A trial measures how many iterations fit into the time. It runs TRIAL iterations, and goes on to about TRIAL_SECONDS
#: if they took less.
TRIAL, TRIAL_SECONDS = 24, 60.
#: Iterations of warm-up. A run shorter than ten times as many has a tenth of its iterations instead.
WARMUP = 100
#: Held while a config is read: MMEngine finds the packages of its bases by pkg_resources, which fails if several
#: threads use it at a time.
READING = Lock()


def scalars(work_dir: str | Path) -> list[dict]:
    """Read what MMEngine logged into a work directory, in all runs that were started there.

    Args:
        work_dir (str | Path): The runner's work directory.

    Returns:
        list[dict]: One for each line of ``*/vis_data/scalars.json``, oldest first.
    """
    lines = []
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        found = [line for line in path.read_text().splitlines() if line]
        for number, line in enumerate(found, 1):
            try:
                lines.append(json.loads(line))
            except ValueError:
                if number < len(found):  # a run that was cut off may leave half a line at the end
                    raise
    return lines


def seconds_per_iteration(work_dir: str | Path, late: bool = False) -> float:
    """Mean time of an iteration of training, by a work directory's log.

    The time of a line is MMEngine's mean over the last ten iterations. The log has a line about every ten seconds, so
    a slow phase has more lines for its iterations than a fast one. So each line counts as often as it has iterations.

    Args:
        work_dir (str | Path): The runner's work directory.
        late (bool): Whether only the later half of the lines counts. Defaults to False.

    Returns:
        float: In seconds.

    Raises:
        UserError: If nothing was logged.
    """
    lines = [line for line in scalars(work_dir) if 'loss' in line and 'time' in line]
    if not lines:
        raise UserError(f'the training in {work_dir} logged no time: see its log for what stopped it')
    before = [0, *(line['step'] for line in lines[:-1])]
    # A resumed run goes back to its last checkpoint. How many iterations its first line has is not known.
    counts = [line['step'] - last if line['step'] > last else 1 for line, last in zip(lines, before)]
    start = len(lines) // 2 if late else 0
    spent = sum(count * line['time'] for count, line in zip(counts[start:], lines[start:]))
    return spent / sum(counts[start:])


def iterations_for(seconds: float, trial_dir: str | Path) -> int:
    """How many iterations fit into a time, according to a trial's log.

    Args:
        seconds (float): The time.
        trial_dir (str | Path): Work directory of the trial. Only the later half of its log counts.

    Returns:
        int: At least 1.

    Raises:
        UserError: If the trial logged no time.
    """
    return max(1, int(seconds / seconds_per_iteration(trial_dir, late=True)))


def train(tool: str | Path, config: str, work_dir: str | Path, seed: int, iterations: int, options: Sequence[str] = (),
          threads: int | None = None, saves: int = 5) -> None:
    """Train a config without validation in a process of its own, or resume its training.

    The config must use the schedule ``configs/_base_/schedules/adamw_fashion-scenes.py``.

    Args:
        tool (str | Path): ``tools/train.py``.
        config (str): Path of the config.
        work_dir (str | Path): Folder for logs and checkpoints.
        seed (int): Random seed.
        iterations (int): Length of the run and of its schedule.
        options (Sequence[str]): More ``KEY=VALUE`` for ``--cfg-options``. Defaults to ().
        threads (int, optional): OpenMP threads. Defaults to None, which leaves it to the environment.
        saves (int): How many checkpoints are saved, the last one at the end. Defaults to 5.

    Raises:
        UserError: If the process fails.
    """
    warmup = max(2, min(WARMUP, iterations // 10))
    command = [
        sys.executable, str(tool), config, '--work-dir', str(work_dir), '--seed', str(seed), '--resume',
        '--no-validate', '--cfg-options', f'train_cfg.max_iters={iterations}', f'param_scheduler.0.end={warmup}',
        f'param_scheduler.1.begin={warmup}', f'param_scheduler.1.end={max(iterations, warmup + 1)}',
        f'default_hooks.checkpoint.interval={max(1, iterations // saves)}',
        f'default_hooks.logger.interval={max(1, min(50, iterations // 4))}', *options
    ]
    call(command, work_dir, config, threads)


def test(tool: str | Path, config: str, checkpoint: str | Path, work_dir: str | Path, options: Sequence[str] = (),
         threads: int | None = None) -> dict[str, float]:
    """Test a checkpoint in a process of its own, on what the config tests with.

    Args:
        tool (str | Path): ``tools/test.py``.
        config, work_dir, options, threads: See :func:`train`.
        checkpoint (str | Path): The file.

    Returns:
        dict[str, float]: Every metric.

    Raises:
        UserError: If the process fails.
    """
    metrics = Path(work_dir) / 'metrics.json'
    call([sys.executable, str(tool), config, str(checkpoint), '--work-dir', str(work_dir), '--out-metrics',
          str(metrics), *(('--cfg-options', *options) if options else ())], work_dir, config, threads, 'testing')
    return json.loads(metrics.read_text())


def threads_of_each(jobs: int) -> int:
    """OpenMP threads of each of several runs at a time: ``OMP_NUM_THREADS`` if it is set, else an equal share of CPUs.

    Threads that wait for a CPU which another run holds can cost more than ten times the time.
    """
    chosen = os.environ.get('OMP_NUM_THREADS', '')
    return int(chosen) if chosen.isdigit() and int(chosen) > 0 else max(1, (os.cpu_count() or 1) // max(1, jobs))


def call(command: Sequence[str], work_dir: str | Path, name: str, threads: int | None, what: str = 'training') -> None:
    """Run the command of a training, and add what it prints to ``output.txt`` in its work directory.

    Args:
        command (Sequence[str]): The command.
        work_dir (str | Path): Folder for logs and checkpoints. It is made if need be.
        name (str): Of the training, for the message.
        threads (int, optional): OpenMP threads. None leaves it to the environment.
        what (str): What the command does, for the message. Defaults to 'training'.

    Raises:
        UserError: If the command fails.
    """
    environment = dict(os.environ, **({} if threads is None else {'OMP_NUM_THREADS': str(threads)}))
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    with open(Path(work_dir) / 'output.txt', 'a') as output:
        code = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
    if code:
        raise UserError(f'{what} {name} stopped with exit code {code}: see {work_dir}/output.txt')


def settings_for(config: str, root: str | Path, seed: int, minutes: float, options: Sequence[str] = (),
                 threads: int | None = None) -> tuple[Path, dict]:
    """Say where a run of :func:`run_for` is and what makes it, and refuse a folder with another run.

    Args:
        config, root, seed, minutes, options, threads: See :func:`run_for`.

    Returns:
        tuple[Path, dict]: The run's work directory, and what ``plan.json`` in it must hold.

    Raises:
        UserError: If the folder has a run with other settings (minutes, options, threads, the config's contents, or
            what computed it).
    """
    work_dir = Path(root) / f'{Path(config).stem}_seed{seed}'
    with READING:
        contents = load_config(config).dump()
    settings = dict(minutes=minutes, options=list(options), threads=threads,
                    config=sha256(contents.encode()).hexdigest()[:8], **computed_by())
    if (plan := work_dir / 'plan.json').is_file():
        planned = json.loads(plan.read_text())
        changed = [f'{key}={planned.get(key)!r}, not {value!r}' for key, value in settings.items()
                   if planned.get(key) != value]
        if changed:
            raise UserError(f'{work_dir} has a run with {"; ".join(changed)}: remove it, or choose another root')
    return work_dir, settings


def run_for(tool: str | Path, config: str, root: str | Path, seed: int, minutes: float, options: Sequence[str] = (),
            threads: int | None = None) -> dict:
    """Train a config for a time, test it and return its metrics. Steps that are done already are not repeated.

    Args:
        tool, config, seed, options, threads: See :func:`train`. ``test.py`` is beside the tool.
        root (str | Path): Folder of all runs; this run gets ``<config>_seed<seed>`` in it.
        minutes (float): Training time, without evaluation.

    Returns:
        dict: ``config``, ``seed``, ``minutes``, ``iterations``, the minutes ``measured`` in the log, and every metric.

    Raises:
        UserError: As :func:`settings_for`, or if training or testing fails.
    """
    work_dir, settings = settings_for(config, root, seed, minutes, options, threads)
    result, plan = work_dir / 'result.json', work_dir / 'plan.json'
    if result.is_file():
        return json.loads(result.read_text())
    if not plan.is_file():
        trial = work_dir / 'trial'
        shutil.rmtree(trial, ignore_errors=True)  # without a plan the trial was interrupted
        # A trial saves one checkpoint, at its end, because it must not measure the time for saving.
        train(tool, config, trial, seed, TRIAL, options, threads, saves=1)
        longer = iterations_for(TRIAL_SECONDS, trial)
        if longer > TRIAL:
            train(tool, config, trial, seed, longer, options, threads, saves=1)
        write_json(plan, dict(settings, iterations=iterations_for(60 * minutes, trial)))
    iterations = json.loads(plan.read_text())['iterations']
    last = work_dir / f'iter_{iterations}.pth'
    if not last.is_file():
        train(tool, config, work_dir, seed, iterations, options, threads)
    metrics = test(Path(tool).with_name('test.py'), config, last, work_dir, options, threads)
    content = dict(config=Path(config).stem, seed=seed, minutes=minutes, iterations=iterations,
                   measured=iterations * seconds_per_iteration(work_dir) / 60, **metrics)
    write_json(result, content)
    return content
