"""What a run with a teacher needs beside the usual hooks."""
import math

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

from ..utils.errors import UserError
from .checks import check_positive
from .teacher_student import TeacherStudent

#: Share of the run after which a collapse is reported. Before, answers may still be forming.
PATIENCE = 0.1


@HOOKS.register_module(name=['DistillationHook', 'PerViTDistillationHook'])
class DistillationHook(Hook):
    """Drive a run of a model with a teacher, any :class:`pervit_mm.selfsup.TeacherStudent`.

    - Before training, unless weights of a teacher were loaded, the teacher is made equal to the student. So
      ``load_from`` takes weights of a student alone, and of a whole pre-training.
    - The model hears before each iteration how far the run is. All schedules follow from it, and a resumed run goes on
      where it stopped.
    - The teacher moves after each step of the optimizer, and not after iterations that only accumulate gradients.
    - If asked for, each parameter's gradient is clipped by itself right before the step, and prototypes get none in the
      first epochs.
    - A collapse is reported in one sentence, once.

    Args:
        clip_grad (float, optional): Largest norm of the gradient of each parameter by itself. DINO clips like this, at
            3. ``clip_grad`` of the optim wrapper clips the norm of all gradients together. Defaults to None.
        freeze_prototypes (int): Epochs at the start in which prototypes don't change. DINO: 1. Defaults to 0.

    Raises:
        UserError: If an argument is out of range; before training, if the model has no teacher, the run has no epochs
            in which prototypes could be frozen, or a fused optimizer with loss scaling leaves no unscaled gradients to
            clip.

    Examples:
        >>> custom_hooks = [dict(type='DistillationHook', clip_grad=3.0, freeze_prototypes=1)]
    """

    # After the parameters of the iteration are set, ahead of hooks that save or evaluate the model.
    priority = 'ABOVE_NORMAL'

    def __init__(self, clip_grad: float | None = None, freeze_prototypes: int = 0) -> None:
        if clip_grad is not None:
            check_positive(clip_grad=clip_grad)
        if type(freeze_prototypes) is not int or freeze_prototypes < 0:
            raise UserError(f'freeze_prototypes must be a number of epochs of at least 0, got {freeze_prototypes!r}')
        self.clip_grad, self.freeze_prototypes = clip_grad, freeze_prototypes
        self._told = False

    def before_train(self, runner: Runner) -> None:
        """Check the model, make the teacher equal to the student, and wait for steps of the optimizer."""
        model = self._model(runner)
        if model.teacher.loaded:
            print_log('The teacher goes on with the weights that were loaded for it.', 'current')
        else:
            model.sync_teacher()
            print_log('The teacher starts as a copy of the student.', 'current')
        wrapper = runner.optim_wrapper
        if isinstance(wrapper, OptimWrapperDict):
            raise UserError(f'DistillationHook takes one optimizer, got {type(wrapper).__name__}')
        if self.freeze_prototypes and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise UserError(f'freeze_prototypes of DistillationHook counts epochs, got {self.freeze_prototypes} in a '
                            'run by iteration, which has none: set it to 0, or train by epoch')
        if self.clip_grad is None and not self.freeze_prototypes:
            return
        scaler = getattr(wrapper, 'loss_scaler', None)
        if wrapper.optimizer.defaults.get('fused') and scaler is not None and scaler.is_enabled():
            raise UserError('clip_grad and freeze_prototypes of DistillationHook need gradients without loss scale, '
                            'and a fused optimizer unscales them itself: set optim_wrapper.optimizer.foreach=True in '
                            'place of fused, or train in bfloat16')
        prototypes = [param for name, param in model.named_parameters()
                      if name.endswith('prototypes') and param.requires_grad]

        def before_step(optimizer, args, kwargs) -> None:
            if runner.epoch < self.freeze_prototypes:
                for param in prototypes:
                    param.grad = None  # with a gradient of zero, weight decay would still change it
            if self.clip_grad is not None:
                for group in optimizer.param_groups:
                    clip_each(group['params'], self.clip_grad)

        self._handle = wrapper.optimizer.register_step_pre_hook(before_step)

    def after_train(self, runner: Runner) -> None:
        """Leave the optimizer as it was."""
        if hasattr(self, '_handle'):
            self._handle.remove()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Say how far the run is."""
        self._model(runner).set_progress(min(1., runner.iter / runner.max_iters))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Move the teacher, and look for a collapse."""
        model = self._model(runner)
        if runner.optim_wrapper.should_update():  # this iteration made a step
            model.update_teacher()
        log = {key: value.item() for key, value in (outputs or {}).items()} if self._looks(runner) else {}
        reason = model.collapsed(log) if log else None
        if reason is not None:
            self._told = True
            runner.logger.warning(f'The features collapse, at iteration {runner.iter + 1}: {reason}.')

    def _looks(self, runner: Runner) -> bool:
        """Whether it is time to look for a collapse: now and then, because reading a value waits for the GPU."""
        every = max(1, math.ceil(runner.max_iters / 100))
        return not self._told and runner.iter >= PATIENCE * runner.max_iters and self.every_n_train_iters(runner, every)

    @staticmethod
    def _model(runner: Runner) -> TeacherStudent:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not isinstance(model, TeacherStudent):
            raise UserError(f'DistillationHook needs a model with a teacher, such as SiT, got '
                            f'{type(model).__name__}: take the hook out of custom_hooks')
        return model


@torch.no_grad()
def clip_each(parameters: list[torch.Tensor], max_norm: float) -> None:
    """Scale the gradient of each parameter by itself down to a norm, in place (Caron et al. 2021, DINO).

    Args:
        parameters (list[Tensor]): Those without a gradient are left out.
        max_norm (float): Largest norm.
    """
    grads = [param.grad for param in parameters if param.grad is not None]
    if grads:
        norms = torch._foreach_norm(grads)
        torch._foreach_mul_(grads, [(max_norm / (norm + 1e-6)).clamp(max=1.) for norm in norms])
