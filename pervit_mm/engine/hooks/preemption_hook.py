"""End a run in good order when the machine is taken away."""
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from ...utils.errors import UserError
from .checkpoint_hook import last_good
from .random_state_hook import PerViTRandomStateHook


class WorkerOutlivesSignals:
    """A ``worker_init_fn`` that lets a data-loading worker live on after a signal that came to all processes.

    torchrun and many queues signal the whole process group. Without this the worker dies, and torch ends the run with
    an error before the iteration is done. Only SIGTERM from the worker's parent ends it, as multiprocessing asks for
    it. Platforms without ``sigwaitinfo`` (macOS, Windows) can't tell whom a signal is from, and change nothing.

    Args:
        first (Callable, optional): The loader's own ``worker_init_fn``, called before.
        signals (Sequence[int]): Numbers of the signals.
    """

    def __init__(self, first: Callable[[int], None] | None, signals: Sequence[int]) -> None:
        self.first, self.signals = first, set(signals)

    def __call__(self, worker_id: int) -> None:
        if self.first is not None:
            self.first(worker_id)
        if hasattr(signal, 'sigwaitinfo'):
            signal.pthread_sigmask(signal.SIG_BLOCK, self.signals)
            threading.Thread(target=self._wait_for_parent, daemon=True).start()

    def _wait_for_parent(self) -> None:
        parent = multiprocessing.parent_process().pid
        while True:
            found = signal.sigwaitinfo(self.signals)
            if found.si_signo == signal.SIGTERM and found.si_pid == parent:
                os._exit(0)


@HOOKS.register_module()
class PerViTPreemptionHook(Hook):
    """Stop soon after a signal, at the end of an iteration, with a checkpoint to go on from.

    A queue that takes a machine away sends SIGTERM, and Slurm whatever ``--signal`` names, some time ahead. In a loop
    by iteration a checkpoint of this iteration is saved. A loop by epoch can't be resumed within an epoch, so it ends
    with the checkpoint of the last epoch. The exit code is that of the signal, 143 for SIGTERM. ``--resume`` goes on.

    Several processes exchange one number now and then, so that all stop after the same iteration, whoever got the
    signal first. To read that number the CPU waits for the GPU, so it isn't done in each iteration. Workers of the
    loaders for training and validation live on when they get the signal too, where ``PerViTRunner`` runs. Those of
    ``KNNHook`` do so under any runner.

    Args:
        signals (Sequence[str], optional): Names of the signals. Defaults to None, which is SIGTERM and, where there is
            such a signal, SIGUSR1.
        interval (int): Iterations from one exchange to the next. A single process exchanges nothing, and looks after
            each iteration. Defaults to 10.

    Raises:
        UserError: If ``interval`` isn't positive, or a name is none of a signal.

    Examples:
        >>> custom_hooks = [dict(type='PerViTPreemptionHook')]
    """

    # Behind CheckpointHook (VERY_LOW), which may save the same iteration.
    priority = 'LOWEST'

    def __init__(self, signals: Sequence[str] | None = None, interval: int = 10) -> None:
        if type(interval) is not int or interval < 1:
            raise UserError('interval of PerViTPreemptionHook must be a positive number of iterations, got '
                            f'{interval!r}')
        if signals is None:
            signals = [name for name in ('SIGTERM', 'SIGUSR1') if hasattr(signal, name)]  # Windows has the first alone
        unknown = [name for name in signals if not hasattr(signal, name)]
        if isinstance(signals, str) or unknown:
            raise UserError('signals of PerViTPreemptionHook must be names such as SIGTERM and SIGUSR1, got '
                            f'{signals!r}')
        self.interval = interval
        self.signals = [getattr(signal, name) for name in signals]
        self._came = 0  # number of the signal
        self._before: dict = {}

    def shield(self, loader: DataLoader) -> None:
        """Let the workers of a loader outlive the signals. ``PerViTRunner`` and ``KNNHook`` ask before they start."""
        if loader.num_workers:
            loader.worker_init_fn = WorkerOutlivesSignals(loader.worker_init_fn, self.signals)

    def before_train(self, runner: Runner) -> None:
        """Listen. Python lets the main thread alone do so."""
        if isinstance(runner.val_loop, BaseLoop):
            self.shield(runner.val_loop.dataloader)
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                self._before[number] = signal.signal(number, self._note)

    def after_train(self, runner: Runner) -> None:
        """Listen no longer."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame) -> None:
        self._came = number

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stop if a signal came, here or in another process."""
        came = self._came
        if get_world_size() > 1:
            if not self.every_n_train_iters(runner, self.interval):
                return
            number = torch.tensor(float(came), device=get_device())
            all_reduce(number, 'max')
            came = int(number.item())
        if not came:
            return
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            self._save(runner)
        # The first process alone writes. A launcher ends it as soon as another one is gone, and a signal in the
        # meantime must not do so either.
        barrier()
        self.after_train(runner)
        name = signal.Signals(came).name
        runner.logger.warning(f'{name} came: the run ends after iteration {runner.iter + 1}. {last_good(runner)}')
        raise SystemExit(128 + came)

    def _save(self, runner: Runner) -> None:
        hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        if hook is None or hook.by_epoch:
            return
        for one in runner.hooks:
            if isinstance(one, PerViTRandomStateHook):
                one.capture()
        hook._save_checkpoint(runner)
