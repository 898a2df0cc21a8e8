"""End a run in good order when the machine is taken away."""
import signal
import threading
from collections.abc import Sequence

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

from ...utils.errors import UserError
from .checkpoint_hook import last_good
from .random_state_hook import PerViTRandomStateHook


@HOOKS.register_module()
class PerViTPreemptionHook(Hook):
    """Stop soon after a signal, at the end of an iteration, with a checkpoint to go on from.

    A queue that takes a machine away sends SIGTERM, and Slurm whatever ``--signal`` names, some time ahead. In a loop
    by iteration a checkpoint of this iteration is saved. A loop by epoch can't be resumed within an epoch, so it ends
    with the checkpoint of the last epoch. The exit code is that of the signal, 143 for SIGTERM. ``--resume`` goes on.

    Several processes exchange one number now and then, so that all stop after the same iteration, whoever got the
    signal first. To read that number the CPU waits for the GPU, so it isn't done in each iteration.

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

    def before_train(self, runner: Runner) -> None:
        """Listen. Python lets the main thread alone do so."""
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
