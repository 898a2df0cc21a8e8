"""The loss of DINO: students predict what the teacher says about another view."""
import math

import torch
from mmengine.dist import all_reduce
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from ...utils.errors import UserError
from ..checks import check_counts, check_positive, check_share
from ..schedules import warm_up


@MODELS.register_module()
class DistillationHead(BaseModule):
    """Cross-entropy between centered, sharpened teachers and students of other views (Caron et al. 2021, DINO).

    The loss is the mean over all pairs of a teacher view q and a student view v ≠ q of
    -softmax((t_q - c) / τt) · log softmax(s_v / τs). The center c is a moving average of the teacher's logits. It is
    updated after the loss.

    Args:
        out_channels (int): Number K of prototypes, that of the neck.
        student_temp (float): τs. Defaults to 0.1.
        teacher_temp (float): τt after the warm-up. Defaults to 0.04.
        warmup_teacher_temp (float, optional): τt at the start. Defaults to None, ``teacher_temp``.
        warmup (float): Share of the run over which τt rises linearly. Defaults to 0.
        center_momentum (float): Share of the old center at each update. Defaults to 0.9.
        init_cfg (dict, optional): Defaults to None; there is no parameter.

    Raises:
        UserError: If ``out_channels`` is not an integer of at least 2, a temperature not above 0, a share not from 0 to
            1, or one of ``warmup_teacher_temp`` and ``warmup`` is given without the other.
    """

    def __init__(self, out_channels: int, student_temp: float = 0.1, teacher_temp: float = 0.04,
                 warmup_teacher_temp: float | None = None, warmup: float = 0., center_momentum: float = 0.9,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        start = teacher_temp if warmup_teacher_temp is None else warmup_teacher_temp
        check_counts(type(self).__name__, out_channels=out_channels)
        if out_channels < 2:
            raise UserError(f'out_channels of {type(self).__name__} must be at least 2, got 1: one prototype tells '
                            'nothing apart')
        check_positive(student_temp=student_temp, teacher_temp=teacher_temp, warmup_teacher_temp=start)
        check_share(warmup=warmup, center_momentum=center_momentum)
        if (start != teacher_temp) != (warmup > 0):
            raise UserError('warmup_teacher_temp and warmup go together: a temperature that rises needs a share of the '
                            f'run above 0, got warmup_teacher_temp={warmup_teacher_temp}, teacher_temp={teacher_temp} '
                            f'and warmup={warmup}')
        self.out_channels, self.student_temp, self.center_momentum = out_channels, student_temp, center_momentum
        self._temperatures = start, teacher_temp, warmup
        self.register_buffer('center', torch.zeros(out_channels))
        self.set_progress(0.)

    def set_progress(self, progress: float) -> None:
        """Set τt for the share of the run that is done, from 0 to 1."""
        self.teacher_temp = warm_up(*self._temperatures, progress)

    def targets(self, teacher: Tensor) -> Tensor:
        """Logits ``(..., K)`` of the teacher to distributions, in float32."""
        return ((teacher.float() - self.center) / self.teacher_temp).softmax(-1)

    def log_predictions(self, student: Tensor) -> Tensor:
        """Logits ``(..., K)`` of the student to log probabilities, in float32."""
        return (student.float() / self.student_temp).log_softmax(-1)

    def loss(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Mean cross-entropy over pairs of different views.

        Args:
            student (list[Tensor]): Logits ``(B, K)`` for each view; the first ones are those of the teacher.
            teacher (list[Tensor]): Logits ``(B, K)`` for each view that the teacher sees, without gradient.

        Returns:
            Tensor: The loss.
        """
        targets, predictions = [self.targets(t) for t in teacher], [self.log_predictions(s) for s in student]
        terms = [-(target * prediction).sum(-1).mean()
                 for q, target in enumerate(targets) for v, prediction in enumerate(predictions) if v != q]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def update_center(self, teacher: Tensor) -> None:
        """Move the center to the mean of the teacher's logits ``(..., K)``, over all processes."""
        mean = teacher.flatten(0, -2).mean(0, dtype=torch.float32)
        all_reduce(mean, op='mean')
        self.center.lerp_(mean, 1 - self.center_momentum)

    @torch.no_grad()
    def statistics(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """What shows a collapse.

        Args:
            student (Tensor): Logits ``(B, K)`` of one view.
            teacher (Tensor): Logits ``(B, K)`` of another view of the same images.

        Returns:
            dict[str, Tensor]: ``entropy``, the mean entropy of the targets, and ``spread``, the entropy of the mean
            target, both as a share of ln K; ``agreement``, the share of images for which student and teacher have the
            same first prototype. Collapse to one answer shows as a spread near 0, collapse to no answer as an entropy
            near 1.
        """
        targets = self.targets(teacher)
        mean = targets.mean(0)
        scale = math.log(self.out_channels)
        return dict(
            entropy=-(targets * targets.clamp_min(1e-30).log()).sum(-1).mean() / scale,
            spread=-(mean * mean.clamp_min(1e-30).log()).sum() / scale,
            agreement=(student.argmax(-1) == targets.argmax(-1)).float().mean())
