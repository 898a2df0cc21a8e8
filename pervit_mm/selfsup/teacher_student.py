"""What all algorithms with a student and its moving average have in common."""
from itertools import groupby

import torch
from mmengine.registry import MODELS
from mmpretrain.models.selfsup.base import BaseSelfSupervisor
from torch import Tensor, nn

from ..models import PerViT
from ..utils.errors import UserError
from .checks import check_share
from .received_attention import received_attention
from .schedules import cosine
from .teacher import EMATeacher
from .transforms import MultiCropWithBoxes


class TeacherStudent(BaseSelfSupervisor):
    """A student, and a teacher that follows it.

    The backbone must give all its tokens. Their mean stands in for a class token, which PerViT doesn't have. A run
    needs :class:`pervit_mm.selfsup.DistillationHook`: it says how far the run is, and moves the teacher after each step
    of the optimizer. A loop of your own calls :meth:`set_progress` before a step and :meth:`update_teacher` after it.

    Args:
        backbone (dict): A PerViT with ``out_type='raw'``, its last block as output.
        neck (dict): From features to what student and teacher compare.
        taught (dict[str, dict | nn.Module]): More parts by name that the teacher has too. Those that are None are left
            out.
        momentum (float): Share of the old teacher in each update at the start of the run. It rises to 1 by half a
            cosine.
        num_teacher_views (int): The first so many views are the teacher's. They have one size.
        min_views (int): Views that the loss needs at least.
        data_preprocessor (dict, optional): Defaults to None, MMPretrain's ``SelfSupDataPreprocessor``.
        init_cfg (dict, optional): Defaults to None. Don't give one that names layers: it would overwrite the position
            network's initialization.

    Attributes:
        teacher (EMATeacher): Its keys in a checkpoint begin with ``teacher.module.``, the backbone's with
            ``teacher.module.backbone.``.

    Raises:
        UserError: If the backbone is no such PerViT or an argument is out of range.
    """

    def __init__(self, backbone: dict, neck: dict, taught: dict[str, dict | nn.Module], momentum: float,
                 num_teacher_views: int, min_views: int, data_preprocessor: dict | None = None,
                 init_cfg: dict | None = None) -> None:
        super().__init__(backbone=backbone, neck=neck, data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        check_share(momentum=momentum)
        if not isinstance(self.backbone, PerViT) or self.backbone.out_type != 'raw' or (
                self.backbone.out_indices != (self.backbone.num_layers - 1, )):
            raise UserError(f"backbone of {type(self).__name__} must be a PerViT with out_type='raw' and the last "
                            f'block as its only output, got {self._describe(self.backbone)}')
        self._taught = ['backbone', 'neck']
        for name, module in taught.items():
            if module is not None:
                self.add_module(name, MODELS.build(module) if isinstance(module, dict) else module)
                self._taught.append(name)
        self.momentum, self.num_teacher_views, self.min_views = momentum, num_teacher_views, min_views
        self._check_necks()
        self.teacher = EMATeacher(self._student())
        # Its weights change at each step, so nothing that is kept would ever be valid.
        self.teacher.module['backbone'].position_cache = None
        self._progress: float | None = None

    def _check_necks(self) -> None:
        """Raise UserError for a neck that takes another width than the backbone gives."""
        width = self.backbone.out_channels[-1]
        for name in self._taught[1:]:
            neck = getattr(self, name)
            first = next((module for module in neck.modules() if isinstance(module, nn.Linear)), None)
            if first is not None and first.in_features != width:
                raise UserError(f'{name}.in_channels of {type(self).__name__} must be the width of the backbone, '
                                f'{width}, got {first.in_features}')

    @staticmethod
    def _describe(backbone: nn.Module) -> str:
        options = (f'{name}={getattr(backbone, name)!r}' for name in ('out_type', 'out_indices')
                   if hasattr(backbone, name))
        return f'{type(backbone).__name__}({", ".join(options)})'

    def _student(self) -> nn.ModuleDict:
        """The parts that the teacher has too."""
        return nn.ModuleDict({name: getattr(self, name) for name in self._taught})

    def init_weights(self) -> None:
        """Initialize the student, then make the teacher equal to it, unless ``init_cfg`` loaded a teacher."""
        super().init_weights()
        if not self.teacher.loaded:
            self.sync_teacher()

    def sync_teacher(self) -> None:
        """Make the teacher equal to the student, as after loading weights for the student alone."""
        self.teacher.sync(self._student())

    def set_progress(self, progress: float) -> None:
        """Set everything that follows a schedule.

        Args:
            progress (float): Share of the run that is done, from 0 to 1.

        Raises:
            UserError: If it is not from 0 to 1.
        """
        check_share(progress=progress)
        self._progress = progress
        for module in self.children():
            if hasattr(module, 'set_progress'):
                module.set_progress(progress)

    def update_teacher(self) -> None:
        """Move the teacher towards the student, with the momentum of the present progress."""
        self.teacher.update_parameters(self._student(), cosine(self.momentum, 1., self._checked_progress()))

    def _checked_progress(self) -> float:
        if self._progress is None:
            raise UserError(f"{type(self).__name__} needs dict(type='DistillationHook') in custom_hooks, and the run "
                            'has none: without it the teacher would never move. In a loop of your own, call '
                            'set_progress(share) before each step and update_teacher() after it')
        return self._progress

    def check_pipeline(self, dataset) -> None:
        """Check the views that a data set makes, ahead of training.

        Args:
            dataset (BaseDataset): Of training. One without ``MultiCropWithBoxes`` is checked by its first batch.

        Raises:
            UserError: As :meth:`check_views`.
        """
        while hasattr(dataset, 'dataset'):
            dataset = dataset.dataset
        for step in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
            if isinstance(step, MultiCropWithBoxes):
                self._check_sizes([(crop.scale[1], crop.scale[0]) for crop, _ in step.views])

    def check_views(self, inputs: Tensor | list[Tensor]) -> list[Tensor]:
        """The views of a batch, each ``(B, C, h, w)``.

        Args:
            inputs (list[Tensor]): What the data preprocessor gives.

        Returns:
            list[Tensor]: The same.

        Raises:
            UserError: If there are too few views, the teacher's differ in size, or one is smaller than a token.
        """
        views = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        self._checked_progress()
        self._check_sizes([tuple(view.shape[2:]) for view in views])
        return views

    def _check_sizes(self, sizes: list[tuple[int, int]]) -> None:
        name = type(self).__name__
        if len(sizes) < self.min_views:
            raise UserError(f'inputs of {name} must hold at least {self.min_views} views of each image, got '
                            f'{len(sizes)}: put MultiCropWithBoxes with {self.num_teacher_views} global views and more '
                            'into the pipeline of train_dataloader')
        if len(set(sizes[:self.num_teacher_views])) > 1:
            raise UserError(f'the first {self.num_teacher_views} views of {name} must have one size, got '
                            f'{sizes[:self.num_teacher_views]}: set global_size of MultiCropWithBoxes')
        stride = self.backbone.out_stride
        if any(min(size) < stride for size in sizes):
            raise UserError(f'each view of {name} must be at least one token, {stride} px, got {sizes}: set local_size '
                            'of MultiCropWithBoxes')

    def student_tokens(self, views: list[Tensor], mask: Tensor | None = None) -> list[Tensor]:
        """Run the student. Neighboring views of one size go through it together.

        Args:
            views (list[Tensor]): Views ``(B, C, h, w)``.
            mask (Tensor, optional): Hidden tokens of the teacher's views, one view after the other, ``(V * B, H, W)``.
                Needs a ``MaskTokenPerViT``. Defaults to None, no mask at all.

        Returns:
            list[Tensor]: Tokens ``(B, N, C)`` of each view.
        """
        def kind(index: int) -> tuple:
            return views[index].shape, mask is not None and index < self.num_teacher_views

        tokens: list[Tensor] = []
        for (_, masked), indices in groupby(range(len(views)), kind):
            group = [views[i] for i in indices]
            joined = torch.cat(group)
            out = self.backbone(joined, mask) if masked else self.backbone(joined)
            tokens += out[-1].chunk(len(group))
        return tokens

    @torch.no_grad()
    def teacher_tokens(self, views: list[Tensor]) -> Tensor:
        """Run the teacher on views of one size, ``(V * B, N, C)``, one view after the other."""
        return self.teacher.module['backbone'](torch.cat(views))[-1]

    @torch.no_grad()
    def teacher_attention(self, views: list[Tensor], relative: bool = False) -> tuple[Tensor, Tensor]:
        """Run the teacher on views of one size, and see how much attention tokens receive in its last block.

        Args:
            views (list[Tensor]): Views ``(B, C, h, w)``.
            relative (bool): Whether the attention is divided by what Φp alone, with its rows normed, would give each
                token. Defaults to False.

        Returns:
            tuple[Tensor, Tensor]: Tokens ``(V * B, N, C)``, and the mean of each token's column of Φa over queries and
            heads, ``(V * B, N)``.
        """
        with received_attention(self.teacher.module['backbone'], relative) as seen:
            tokens = self.teacher_tokens(views)
        return tokens, seen[0]

    @staticmethod
    def token_logits(neck: nn.Module, tokens: list[Tensor]) -> list[Tensor]:
        """Logits ``(B, N, K)`` of each view's tokens ``(B, N, C)``, all through the neck at once."""
        logits = neck(torch.cat([view.flatten(0, 1) for view in tokens]))
        parts = logits.split([view.shape[0] * view.shape[1] for view in tokens])
        return [part.unflatten(0, view.shape[:2]) for part, view in zip(parts, tokens)]

    def collapsed(self, log: dict[str, float]) -> str | None:
        """Say by what the losses and statistics of an iteration show a collapse, or return None."""
        raise NotImplementedError
