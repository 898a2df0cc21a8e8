"""Self-distillation: DINO, and with options iBOT, AttMask and EsViT."""
import torch
from mmengine.registry import MODELS
from torch import Tensor

from ..models.layers import token_grid
from ..utils.errors import UserError
from .checks import check_share
from .mask_token import MaskTokenPerViT
from .teacher_student import TeacherStudent

#: Entropy of the teacher's answers as a share of ln K above which they say nothing, and spread of its answers over the
#: images below which all images get the same one.
NO_ANSWER, ONE_ANSWER = 0.99, 0.02


@MODELS.register_module()
class SelfDistillation(TeacherStudent):
    """A student learns to predict what its moving average says about other views of an image.

    With ``head`` alone this is DINO (Caron et al. 2021). The options make other systems of it:

    - iBOT (Zhou et al. 2022): ``token_head`` and ``masking=dict(type='TokenBlockMask')``;
    - AttMask (Kakogeorgiou et al. 2022): ``token_head`` and ``masking=dict(type='AttentionMask')``;
    - EsViT (Li et al. 2022): ``region_neck``, ``region_head`` and ``region_weight=0.5``.

    PerViT has no class token. The mean of its normed tokens stands in for it. AttMask asks how much attention the class
    token pays to each token. For each head, the mean of a column of the last Φa over queries is the weight of that
    token's value in the mean output. We average it over heads.

    Args:
        backbone (dict): PerViT with ``out_type='raw'``; ``MaskTokenPerViT`` where tokens are masked.
        neck (dict): ``DistillationNeck`` on the mean of the tokens, and on the tokens themselves for ``token_head``.
        head (dict): ``DistillationHead`` between views.
        token_head (dict, optional): ``TokenDistillationHead`` on hidden tokens. Defaults to None.
        masking (dict, optional): ``TokenBlockMask`` or ``AttentionMask``: which tokens of the teacher's views are
            hidden from the student. Goes with ``token_head``. Defaults to None.
        region_neck (dict, optional): ``DistillationNeck`` on the tokens for ``region_head``. Defaults to None.
        region_head (dict, optional): ``RegionMatchingHead``. Goes with ``region_neck``. Defaults to None.
        region_weight (float): Weight of the region loss. That of the view loss is 1 - ``region_weight``. Defaults to
            0.5 with ``region_head``.
        relative_attention (bool): Whether the attention that ``masking`` sees is divided by what Φp alone, with its
            rows normed, would give each token. Φp is the same for all images. Defaults to False.
        num_teacher_views (int): The first so many views are global crops, which the teacher sees. Defaults to 2.
        momentum (float): Share of the old teacher in each update at the start. It rises to 1. Defaults to 0.996.
        data_preprocessor (dict, optional): Defaults to None, MMPretrain's ``SelfSupDataPreprocessor``.
        init_cfg (dict, optional): Defaults to None.

    Raises:
        UserError: If options don't go together, or as :class:`TeacherStudent`.
    """

    def __init__(self, backbone: dict, neck: dict, head: dict, token_head: dict | None = None,
                 masking: dict | None = None, region_neck: dict | None = None, region_head: dict | None = None,
                 region_weight: float = 0.5, relative_attention: bool = False, num_teacher_views: int = 2,
                 momentum: float = 0.996, data_preprocessor: dict | None = None,
                 init_cfg: dict | None = None) -> None:
        if type(num_teacher_views) is not int or num_teacher_views < 1:
            raise UserError(f'num_teacher_views must be a positive integer, got {num_teacher_views!r}')
        super().__init__(backbone, neck, dict(region_neck=region_neck), momentum, num_teacher_views,
                         max(2, num_teacher_views), data_preprocessor, init_cfg)
        for (one, is_one), (other, is_other) in (
                (('token_head', token_head), ('masking', masking)),
                (('region_head', region_head), ('region_neck', region_neck))):
            if (is_one is None) != (is_other is None):
                raise UserError(f'{one} and {other} go together, got only {one if is_other is None else other}: give '
                                'both, or none')
        self.head = MODELS.build(head)
        self.token_head = None if token_head is None else MODELS.build(token_head)
        self.masking = None if masking is None else MODELS.build(masking)
        self.region_head = None if region_head is None else MODELS.build(region_head)
        self.relative_attention = relative_attention
        check_share(region_weight=region_weight)
        self.region_weight = region_weight if region_head is not None else 0.
        if (masking is not None) != isinstance(self.backbone, MaskTokenPerViT):
            # With a mask token that nothing uses, DDP would miss its gradient.
            raise UserError(f'masking and a backbone of type MaskTokenPerViT go together, got masking={masking!r} and '
                            f'{type(self.backbone).__name__}')
        if relative_attention and not getattr(self.masking, 'needs_attention', False):
            raise UserError("relative_attention=True needs masking=dict(type='AttentionMask'), got "
                            f'masking={masking!r}')
        for name, used, used_neck in (('head', self.head, self.neck), ('token_head', self.token_head, self.neck),
                                      ('region_head', self.region_head, getattr(self, 'region_neck', None))):
            if used is not None and used.out_channels != used_neck.out_channels:
                raise UserError(f'out_channels of {name} must be that of its neck, {used_neck.out_channels}, got '
                                f'{used.out_channels}')

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Losses and statistics of a batch.

        Args:
            inputs (list[Tensor]): Views ``(B, C, h, w)``, the teacher's first.
            data_samples (list, optional): Not used.

        Returns:
            dict[str, Tensor]: ``view_loss``, and ``token_loss`` and ``region_loss`` with their options; ``entropy``,
            ``spread`` and ``agreement`` of the view head, see :meth:`DistillationHead.statistics`.
        """
        views = self.check_views(inputs)
        num, batch = self.num_teacher_views, len(views[0])
        hw_shape = token_grid(views[0], self.backbone.out_stride)
        with torch.no_grad():
            teacher, attention = self._look(views[:num])
            teacher_logits = self.teacher.module['neck'](teacher.mean(1)).chunk(num)
        mask = None
        if self.masking is not None:
            mask = self.masking(num * batch, hw_shape, attention).to(teacher.device)
        tokens = self.student_tokens(views, mask)
        logits = self.neck(torch.cat([view.mean(1) for view in tokens])).chunk(len(views))
        losses = dict(view_loss=(1 - self.region_weight) * self.head.loss(logits, teacher_logits))
        if self.token_head is not None:
            with torch.no_grad():
                targets = self.teacher.module['neck'](teacher)
            losses['token_loss'] = self.token_head.loss(
                self.neck(torch.cat(tokens[:num])), targets, mask.flatten(1))
            self.token_head.update_center(targets)
        if self.region_head is not None:
            with torch.no_grad():
                targets = self.teacher.module['region_neck'](teacher)
            losses['region_loss'] = self.region_weight * self.region_head.loss(
                self.token_logits(self.region_neck, tokens), targets.chunk(num), tokens, teacher.chunk(num))
            self.region_head.update_center(targets)
        losses.update(self.head.statistics(logits[min(1, len(views) - 1)], teacher_logits[0]))
        self.head.update_center(torch.cat(teacher_logits))
        return losses

    def _look(self, views: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The teacher's tokens ``(V * B, N, C)``, and its attention ``(V * B, N)`` if the masking asks for it."""
        if self.masking is None or not self.masking.needs_attention:
            return self.teacher_tokens(views), None
        return self.teacher_attention(views, self.relative_attention)

    def collapsed(self, log: dict[str, float]) -> str | None:
        """Say by what the losses and statistics of an iteration show a collapse, or return None."""
        if log['entropy'] > NO_ANSWER:
            return (f"the teacher's answers have {log['entropy']:.3f} of the largest entropy, so they say nothing: "
                    'lower teacher_temp')
        if log['spread'] < ONE_ANSWER:
            return (f"the teacher's mean answer has {log['spread']:.3f} of the largest entropy, so all images get the "
                    'same answer: lower the rate, or raise the momentum of the teacher')
        return None
