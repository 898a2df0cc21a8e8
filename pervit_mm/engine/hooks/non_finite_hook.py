"""Stop a run that computes NaN, before its weights are lost."""
from collections.abc import Callable

import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ...utils.errors import UserError
from .checkpoint_hook import last_good


@HOOKS.register_module()
class PerViTNonFiniteHook(Hook):
    """Stop training when a loss or a gradient is NaN or infinite.

    Gradients are looked at ahead of each optimizer step, so the step that would break the weights is not taken. Under
    ``AmpOptimWrapper`` the gradient scaler does that, unless it is switched off, and the hook looks at the loss alone.
    With several processes gradients are averaged first, so all processes stop together.

    Args:
        max_skips (int): Optimizer steps in a row that are skipped, with a warning, before training stops. Without
            accumulation of gradients each iteration has one. Defaults to 0, which stops at once.

    Raises:
        UserError: If ``max_skips`` is no number of at least 0. In training with the iteration, the learning rate and
            the last good checkpoint.

    Examples:
        >>> custom_hooks = [dict(type='PerViTNonFiniteHook', max_skips=3)]
    """

    # Ahead of hooks that log or save what an iteration gave.
    priority = 'VERY_HIGH'

    def __init__(self, max_skips: int = 0) -> None:
        if type(max_skips) is not int or max_skips < 0:
            raise UserError(f'max_skips of PerViTNonFiniteHook must be a number of steps of at least 0, got '
                            f'{max_skips!r}')
        self.max_skips = max_skips
        self._in_a_row = 0
        self._broken = False  # in an iteration since the last step: gradients are accumulated over several
        self._undo: list[Callable] = []

    def before_train(self, runner: Runner) -> None:
        """Stand in front of the optimizer steps."""
        for one in _wrappers(runner):
            if not (isinstance(one, AmpOptimWrapper) and one.loss_scaler.is_enabled()):
                one.step = self._guard(runner, one, one.step)
                self._undo.append(lambda one=one: vars(one).pop('step'))  # the method of its class is behind it

    def after_train(self, runner: Runner) -> None:
        """Step aside."""
        while self._undo:
            self._undo.pop()()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Look at the loss."""
        losses = {name: value for name, value in (outputs or {}).items()
                  if 'loss' in name and isinstance(value, Tensor)}
        broken = []
        if not all_finite(list(losses.values())):  # one wait for the device, and more only to name them
            broken = [name for name, value in losses.items() if not bool(torch.isfinite(value).all())]
        if broken:
            self._count(runner, f'{", ".join(broken)} is not finite')
        if all(wrapper.should_update() for wrapper in _wrappers(runner)):
            if not self._broken:
                self._in_a_row = 0
            self._broken = False

    def _guard(self, runner: Runner, wrapper: OptimWrapper, step: Callable) -> Callable:

        def guarded(**kwargs) -> None:
            gradients = [p.grad for group in wrapper.param_groups for p in group['params'] if p.grad is not None]
            if all_finite(gradients):
                step(**kwargs)
                return
            self._count(runner, 'a gradient is not finite')
            wrapper.zero_grad()

        return guarded

    def _count(self, runner: Runner, what: str) -> None:
        """Skip this step, or stop. What is broken twice until the step counts once."""
        if self._broken:
            return
        self._broken = True
        self._in_a_row += 1
        where = f'{what} in iteration {runner.iter + 1}, at the learning rate {learning_rate(runner)}'
        if self._in_a_row > self.max_skips:
            skipped = f' ({self.max_skips} steps before it were skipped)' if self.max_skips else ''
            raise UserError(f'{where}{skipped}: training stops. {last_good(runner)}. Lower the learning rate, or '
                            'clip gradients by optim_wrapper.clip_grad')
        runner.logger.warning(f'PerViTNonFiniteHook: {where}: no step is taken '
                              f'({self._in_a_row} in a row, at most {self.max_skips})')


def _wrappers(runner: Runner) -> list[OptimWrapper]:
    """Optimizer wrappers of a run: one, or the several of an ``OptimWrapperDict``."""
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def learning_rate(runner: Runner) -> str:
    """Largest learning rate of each optimizer, for messages."""
    rates = runner.optim_wrapper.get_lr()
    largest = {name: max(values) for name, values in rates.items() if values and name.split('.')[-1] != 'base_lr'}
    return ', '.join(f'{value:.3g}' if name == 'lr' else f'{name} {value:.3g}' for name, value in largest.items())


def all_finite(tensors: list[Tensor]) -> bool:
    """Whether all values of all tensors are finite, with one wait for the device."""
    dense = [t.detach() if t.layout == torch.strided else t.detach().coalesce().values() for t in tensors]
    dense = [t for t in dense if t.numel()]
    if not dense:
        return True
    largest = torch._foreach_norm(dense, float('inf'))
    return bool(torch.isfinite(torch.stack([value.float().to(largest[0].device) for value in largest])).all())
