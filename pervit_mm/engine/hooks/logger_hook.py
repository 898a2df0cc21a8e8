"""A log that goes on when iterations are few or slow."""
import time

from mmengine.hooks import LoggerHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...utils.errors import UserError


@HOOKS.register_module()
class PerViTLoggerHook(LoggerHook):
    """MMEngine's ``LoggerHook``, which also logs before it has been silent for too long.

    By its interval alone a run on a small folder or a slow machine says nothing for minutes. This holds in training,
    validation and testing. The lines and records look the same, and those at the interval stay.

    Args:
        seconds (float): The longest silence, in seconds. An iteration is logged if another one like it would exceed
            this. An iteration that takes longer is logged itself. Defaults to 10.
        **kwargs: Of ``LoggerHook``, such as ``interval``.

    Raises:
        UserError: If ``seconds`` is no number above 0.

    Examples:
        >>> default_hooks = dict(logger=dict(type='PerViTLoggerHook', interval=50))
    """

    def __init__(self, seconds: float = 10., **kwargs) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
            raise UserError(f'seconds of PerViTLoggerHook must be a number above 0, got {seconds!r}: give the longest '
                            'silence, for example 10')
        super().__init__(**kwargs)
        self.seconds = seconds
        self._last_line = self._last_iter = 0.

    def before_run(self, runner: Runner) -> None:
        """Start the clock."""
        super().before_run(runner)
        self._last_line = self._last_iter = time.monotonic()

    def every_n_inner_iters(self, batch_idx: int, n: int) -> bool:
        """Whether ``LoggerHook`` logs this iteration: at its interval, or ahead of too long a silence.

        Args:
            batch_idx (int): Index of the iteration.
            n (int): The interval.

        Returns:
            bool: Whether a line is due.
        """
        now = time.monotonic()
        took, self._last_iter = now - self._last_iter, now
        due = super().every_n_inner_iters(batch_idx, n) or now + took - self._last_line > self.seconds
        if due:
            self._last_line = now
        return due
