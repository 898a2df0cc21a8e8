"""The region loss of EsViT: each token predicts what the teacher says about the token that matches it best."""
import torch
from mmengine.registry import MODELS
from torch import Tensor

from ...evaluation.region_matching import match_tokens
from .distillation_head import DistillationHead


@MODELS.register_module()
class RegionMatchingHead(DistillationHead):
    """Cross-entropy between each student token and the teacher token that is most similar (Li et al. 2022, EsViT).

    Similarity is the cosine between features of the backbone. The mean is taken over the tokens of a view, then over
    the pairs of views as in :class:`DistillationHead`, whose arguments these are. Views may have different numbers of
    tokens.
    """

    def loss(self, student: list[Tensor], teacher: list[Tensor], student_tokens: list[Tensor],
             teacher_tokens: list[Tensor]) -> Tensor:
        """Mean cross-entropy over pairs of different views.

        Args:
            student (list[Tensor]): Logits ``(B, N, K)`` for each view; the first ones are those of the teacher.
            teacher (list[Tensor]): Logits ``(B, M, K)`` for each view that the teacher sees, without gradient.
            student_tokens (list[Tensor]): Features ``(B, N, C)`` for each view.
            teacher_tokens (list[Tensor]): Features ``(B, M, C)`` for each view that the teacher sees.

        Returns:
            Tensor: The loss.
        """
        targets, predictions = [self.targets(t) for t in teacher], [self.log_predictions(s) for s in student]
        terms = []
        for q, target in enumerate(targets):
            for v, prediction in enumerate(predictions):
                if v != q:
                    matches = match_tokens(student_tokens[v], teacher_tokens[q])
                    matched = target.gather(1, matches[..., None].expand(-1, -1, target.shape[-1]))
                    terms.append(-(matched * prediction).sum(-1).mean())
        return torch.stack(terms).mean()
