"""What hooks that record something every so often have in common."""
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from ...utils.errors import UserError


class Recorder(Hook):
    """Record something before training and every so many epochs or iterations, on the first rank.

    Args:
        interval (int): Every so many epochs, or iterations. Defaults to 1.
        by_epoch (bool): Whether ``interval`` counts epochs. Runs by iteration, as MMSegmentation's are, need False.
            Defaults to True.
        before_training (bool): Whether to record what training starts from, too. Defaults to True.

    Raises:
        UserError: If ``interval`` is not a positive integer, or, when training starts, if the run has no epochs.
    """

    # After CheckpointHook, which is VERY_LOW: if recording fails, what was trained is saved.
    priority = 'LOWEST'

    def __init__(self, interval: int = 1, by_epoch: bool = True, before_training: bool = True) -> None:
        if type(interval) is not int or interval < 1:
            raise UserError(f'interval of {type(self).__name__} must be a positive number of epochs or iterations, '
                            f'got {interval!r}')
        self.interval, self.by_epoch, self.before_training = interval, by_epoch, before_training

    def record_all(self, runner: Runner, step: int) -> None:
        """Record what there is after so many epochs or iterations."""
        raise NotImplementedError(f'{type(self).__name__} must say what it records')

    @master_only
    def _record(self, runner: Runner, step: int) -> None:
        self.record_all(runner, step)

    def before_train(self, runner: Runner) -> None:
        """Record where training starts from."""
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise UserError(f'{type(self).__name__} counts epochs, and this run goes by iteration: give it '
                            'by_epoch=False and an interval in iterations')
        if self.before_training:
            self._record(runner, runner.epoch if self.by_epoch else runner.iter)

    def after_train_epoch(self, runner: Runner) -> None:
        """Record every ``interval`` epochs."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._record(runner, runner.epoch + 1)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Record every ``interval`` iterations."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._record(runner, runner.iter + 1)
