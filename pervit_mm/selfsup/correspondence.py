"""The fine-grained network of SFC: tokens know their place in any crop."""
import numpy as np
import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..models.layers import token_grid
from ..utils.errors import UserError
from .teacher_student import TeacherStudent

#: Mean cosine of tokens of different places above which they tell nothing apart.
ALL_ALIKE = 0.98


@MODELS.register_module()
class FineCorrespondence(TeacherStudent):
    """Fine-grained correspondence by pairs of tokens in the same place (Hu et al. 2022, SFC).

    Two crops of an image go through student and teacher. A token of the student predicts the teacher's tokens that show
    the same place in the other crop. What place that is follows from the boxes of the crops. Colors are left as they
    are: crops alone make fine-grained features. For label propagation they are joined with those of another
    pre-training, see :func:`pervit_mm.analysis.fuse_features`.

    Args:
        backbone (dict): PerViT with ``out_type='raw'``.
        neck (dict): The projector, MMPretrain's ``NonLinearNeck`` on single tokens, ``with_avg_pool=False``.
        head (dict): ``CorrespondenceHead``, with the predictor.
        momentum (float): Share of the old teacher in each update at the start. It rises to 1. Defaults to 0.99, SFC's.
        data_preprocessor (dict, optional): Defaults to None, MMPretrain's ``SelfSupDataPreprocessor``.
        init_cfg (dict, optional): Defaults to None.

    Raises:
        UserError: As :class:`TeacherStudent`; if the predictor takes or gives another width than ``neck`` gives; while
            training, if there are not two views of one size, or their boxes are missing.
    """

    def __init__(self, backbone: dict, neck: dict, head: dict, momentum: float = 0.99,
                 data_preprocessor: dict | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(backbone, neck, {}, momentum, 2, 2, data_preprocessor, init_cfg)
        self.head = MODELS.build(head)
        projector, predictor = ([layer for layer in module.modules() if isinstance(layer, nn.Linear)]
                                for module in (self.neck, self.head.predictor))
        width, found = projector[-1].out_features, (predictor[0].in_features, predictor[-1].out_features)
        if found != (width, width):
            raise UserError(f'head.predictor of FineCorrespondence must take and give the width of the neck, {width}, '
                            f'got in_channels={found[0]} and out_channels={found[1]}')

    def loss(self, inputs: list[Tensor], data_samples: list) -> dict[str, Tensor]:
        """Loss and statistics of a batch.

        Args:
            inputs (list[Tensor]): Two views ``(B, C, h, w)``; more are not used.
            data_samples (list[DataSample]): With ``boxes`` and ``flipped`` of ``MultiCropWithBoxes``.

        Returns:
            dict[str, Tensor]: ``correspondence_loss``, and ``paired`` and ``likeness``, see
            :meth:`CorrespondenceHead.loss`.
        """
        views = self.check_views(inputs)[:2]
        tokens = torch.cat(self.student_tokens(views))  # (2 * B, N, C)
        with torch.no_grad():
            known = self._project(self.teacher.module['neck'], self.teacher_tokens(views))
        hw_shape = token_grid(views[0], self.backbone.out_stride)
        boxes, flipped = self._places(data_samples)
        loss, statistics = self.head.loss(self._project(self.neck, tokens), known, boxes.to(tokens.device),
                                          flipped.to(tokens.device), hw_shape)
        return dict(correspondence_loss=loss, **statistics)

    @staticmethod
    def _project(neck: nn.Module, tokens: Tensor) -> Tensor:
        """Run a neck on single tokens, ``(B, N, C)`` to ``(B, N, C')``."""
        return neck((tokens.flatten(0, 1), ))[0].unflatten(0, tokens.shape[:2])

    @staticmethod
    def _places(data_samples: list) -> tuple[Tensor, Tensor]:
        """Boxes ``(B, 2, 4)`` of the first two views, and whether they were flipped, ``(B, 2)``."""
        if not data_samples or not all('boxes' in sample and 'flipped' in sample for sample in data_samples):
            raise UserError('data_samples of FineCorrespondence must have boxes and flipped, and some lack them: put '
                            "MultiCropWithBoxes into the pipeline, and algorithm_keys=('boxes', 'flipped') into "
                            'PackInputs')
        return tuple(torch.from_numpy(np.stack([sample.get(key)[:2] for sample in data_samples]))
                     for key in ('boxes', 'flipped'))

    def collapsed(self, log: dict[str, float]) -> str | None:
        """Say by what the losses and statistics of an iteration show a collapse, or return None."""
        if log['paired'] == 0:
            return ('no token has a pair in the other crop, so nothing is learned: raise global_scale of '
                    'MultiCropWithBoxes')
        if log['likeness'] > ALL_ALIKE:
            return (f"tokens of different places have a mean cosine of {log['likeness']:.3f}, so they tell nothing "
                    'apart: lower the rate, or raise the momentum of the teacher')
        return None
