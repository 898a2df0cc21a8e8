"""The teacher of self-distillation: a moving average of the student."""
import torch
from mmengine.model import BaseAveragedModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..utils.errors import UserError


class EMATeacher(BaseAveragedModel):
    """Exponential moving average of a student's parameters, with BatchNorm statistics of its own.

    MMPretrain's ``CosineEMA`` and MMEngine's ``ExponentialMovingAverage`` average the buffers too or copy them from
    the student at each update. The student may see masked or corrupted images and small crops, and the teacher sees
    whole ones. So the statistics of the student would be wrong for the teacher.

    The teacher is in eval mode always: no DropPath. Only its BatchNorm layers follow the mode of the algorithm. In
    training they normalize by the batch, as the student's do, and keep running statistics of the teacher's own batches.

    Args:
        model (nn.Module): The student. It is copied.

    Attributes:
        module (nn.Module): The copy. Its parameters need no gradient.
        steps (Tensor): Number of updates, an int64 buffer.
        loaded (bool): Whether a checkpoint had weights for the teacher.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.train(self.training)
        self.loaded = False
        self._register_load_state_dict_pre_hook(self._note_loaded)

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Not used: :meth:`update_parameters` averages all parameters at once."""
        raise NotImplementedError('EMATeacher averages by update_parameters(model, momentum)')

    def train(self, mode: bool = True) -> 'EMATeacher':
        """Switch the mode of the BatchNorm layers. All else stays in eval mode."""
        super().train(mode)  # a backbone may keep frozen BatchNorm in eval mode
        for module in self.modules():
            if module is not self and not isinstance(module, _BatchNorm):
                module.training = False
        return self

    def _note_loaded(self, state: dict, prefix: str, *_) -> None:
        self.loaded = any(key.startswith(f'{prefix}module.') for key in state)

    @torch.no_grad()
    def sync(self, model: nn.Module) -> None:
        """Make the teacher equal to the student, buffers included.

        Args:
            model (nn.Module): The student.

        Raises:
            UserError: If the student's tensors have other shapes than the teacher's.
        """
        own, other = list(self.module.state_dict().values()), list(model.state_dict().values())
        _check_shapes(own, other)
        for mine, theirs in zip(own, other):
            mine.copy_(theirs)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module, momentum: float) -> None:
        """Move towards the student: teacher ← momentum · teacher + (1 - momentum) · student.

        Args:
            model (nn.Module): The student.
            momentum (float): Share of the old teacher, from 0 to 1.

        Raises:
            UserError: If the student's parameters have other shapes than the teacher's.
        """
        own, other = list(self.module.parameters()), [param.detach() for param in model.parameters()]
        _check_shapes(own, other)
        torch._foreach_lerp_(own, other, 1 - momentum)
        self.steps += 1


def _check_shapes(own: list[Tensor], other: list[Tensor]) -> None:
    """Raise UserError unless teacher and student have tensors of the same shapes."""
    if [tensor.shape for tensor in own] != [tensor.shape for tensor in other]:
        raise UserError('the teacher must have the shapes of the student, got another width or depth: build the '
                        'student first, and change no layer of it afterwards')
