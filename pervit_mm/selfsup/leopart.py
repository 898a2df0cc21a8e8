"""Leopart: tokens of different views that show the same place belong to the same cluster."""
import numpy as np
import torch
from mmengine.registry import MODELS
from torch import Tensor

from ..utils.errors import UserError
from .distillation import NO_ANSWER
from .foreground import attention_foreground
from .regions import overlap_regions
from .teacher_student import TeacherStudent


@MODELS.register_module()
class Leopart(TeacherStudent):
    """Self-supervised learning of object parts (Ziegler and Asano 2022, Leopart).

    A teacher assigns the tokens of large crops to clusters, all clusters equally often. The student predicts from other
    crops of the image which cluster stands at each place. Only the foreground counts: what the teacher attends to. The
    backbone should have learned before, by :class:`pervit_mm.selfsup.SelfDistillation`, so that it attends to objects:
    name the checkpoint in its ``init_cfg``.

    PerViT has no class token whose attention would show the foreground. The mean of a token's column of the last Φa
    over queries and heads stands in for it.

    Args:
        backbone (dict): PerViT with ``out_type='raw'``.
        neck (dict): ``DistillationNeck`` on the tokens.
        head (dict): ``ClusterHead``. Its ``num_views`` are the global crops, which the teacher sees.
        mass (float): Share of the attention that the foreground holds. Defaults to 0.6.
        relative_attention (bool): Whether the attention is divided by what Φp alone, with its rows normed, would give
            each token. Φp is the same for all images. Defaults to False.
        momentum (float): Share of the old teacher in each update at the start. It rises to 1. Defaults to 0.9995.
        data_preprocessor (dict, optional): Defaults to None, MMPretrain's ``SelfSupDataPreprocessor``.
        init_cfg (dict, optional): Defaults to None.

    Raises:
        UserError: If neck and head don't fit together, or as :class:`TeacherStudent`; while training, if views have no
            boxes, are flipped, don't overlap, or are not whole tokens.
    """

    def __init__(self, backbone: dict, neck: dict, head: dict, mass: float = 0.6, relative_attention: bool = False,
                 momentum: float = 0.9995, data_preprocessor: dict | None = None,
                 init_cfg: dict | None = None) -> None:
        head = MODELS.build(head)
        super().__init__(backbone, neck, {}, momentum, head.num_views, max(2, head.num_views), data_preprocessor,
                         init_cfg)
        self.head, self.mass, self.relative_attention = head, mass, relative_attention
        for name, own, other in (('out_channels', self.head.out_channels, 'out_channels'),
                                 ('in_channels', self.head.in_channels, 'bottleneck_channels')):
            if own != getattr(self.neck, other):
                raise UserError(f'{name} of head must be {other} of its neck, {getattr(self.neck, other)}, got {own}')

    def _check_sizes(self, sizes: list[tuple[int, int]]) -> None:
        super()._check_sizes(sizes)
        stride = self.backbone.out_stride
        if any(side % stride for size in sizes for side in size):
            raise UserError(f'sides of views of Leopart must be multiples of a token, {stride} px, or places would be '
                            f'off, got {sizes}: change global_size or local_size of MultiCropWithBoxes')

    def loss(self, inputs: list[Tensor], data_samples: list) -> dict[str, Tensor]:
        """Losses and statistics of a batch.

        Args:
            inputs (list[Tensor]): Views ``(B, C, h, w)``, the teacher's first.
            data_samples (list[DataSample]): With ``boxes`` ``(V, 4)`` and ``flipped`` ``(V, )`` of
                ``MultiCropWithBoxes``.

        Returns:
            dict[str, Tensor]: ``cluster_loss``; ``entropy``, ``agreement`` and ``foreground`` of the first view, see
            :meth:`ClusterHead.statistics`.
        """
        views = self.check_views(inputs)
        num, neck = self.num_teacher_views, self.teacher.module['neck']
        for of in (self.neck, neck):  # before each step, as the authors do
            of.norm_prototypes()
        regions = self._regions(data_samples, len(views)).to(views[0].device)
        grids = [tuple(side // self.backbone.out_stride for side in view.shape[2:]) for view in views]
        tokens, attention = self.teacher_attention(views[:num], self.relative_attention)
        foreground = attention_foreground(attention, grids[0], self.mass).flatten(1).chunk(num)
        with torch.no_grad():
            points = neck.embed(tokens).chunk(num)
            assignments = self.head.assign(points, neck.compare)
            self.head.store(points, foreground)
        logits = self.token_logits(self.neck, self.student_tokens(views))
        loss = self.head.loss(
            [_as_map(view, grid) for view, grid in zip(logits, grids)],
            [_as_map(view, grids[0]) for view in assignments],
            [view.unflatten(1, grids[0]) for view in foreground], regions)
        return dict(cluster_loss=loss, **self.head.statistics(logits[0], assignments[0], foreground[0]))

    def _regions(self, data_samples: list | None, num: int) -> Tensor:
        """Overlaps of ``num`` views, ``(B, V, V, 4)`` on the CPU."""
        samples = data_samples or [None]
        if not all('boxes' in (sample or ()) and len(sample.boxes) == num for sample in samples):
            raise UserError(f"data_samples of Leopart must have boxes of all {num} views: put algorithm_keys=('boxes', "
                            "'flipped') into PackInputs, behind MultiCropWithBoxes")
        if any(np.any(sample.get('flipped', False)) for sample in samples):
            raise UserError('views of Leopart must not be flipped, or places would be off: take RandomFlip out of '
                            'MultiCropWithBoxes, and put it ahead of it')
        boxes = torch.from_numpy(np.stack([sample.boxes for sample in samples]))
        return overlap_regions(boxes, self.num_teacher_views)

    def collapsed(self, log: dict[str, float]) -> str | None:
        """Say by what the losses and statistics of an iteration show that nothing is learned, or return None."""
        if log['entropy'] > NO_ANSWER:
            return (f"the teacher's assignments have {log['entropy']:.3f} of the largest entropy, so they say nothing: "
                    'lower epsilon, or start from a checkpoint that was pre-trained')
        if not log['foreground']:
            return 'the teacher attends to no component of more than two tokens, so no token is trained: raise mass'
        return None


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens ``(B, N, K)`` as ``(B, K, H, W)``."""
    return tokens.transpose(1, 2).unflatten(2, grid)
