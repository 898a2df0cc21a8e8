"""The token loss of iBOT: students predict what the teacher says about tokens that were hidden from them."""
from mmengine.registry import MODELS
from torch import Tensor

from .distillation_head import DistillationHead


@MODELS.register_module()
class TokenDistillationHead(DistillationHead):
    """Cross-entropy on hidden tokens, between student and teacher of the same view (Zhou et al. 2022, iBOT).

    For each image it is Σ(CE · mask) / max(1, number masked). The loss is the mean over all images, those without a
    mask included. The center is one of its own, over all tokens. Arguments are those of :class:`DistillationHead`.
    """

    def loss(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """Mean cross-entropy on hidden tokens.

        Args:
            student (Tensor): Logits ``(B, N, K)``.
            teacher (Tensor): Logits ``(B, N, K)`` of the same images, without gradient.
            mask (Tensor): Boolean ``(B, N)``, True for tokens that were hidden from the student.

        Returns:
            Tensor: The loss; 0 if nothing is hidden.
        """
        cross_entropy = -(self.targets(teacher) * self.log_predictions(student)).sum(-1)
        return (cross_entropy * mask).sum(1).div(mask.sum(1).clamp_min(1)).mean()
