"""MILAN: what a frozen network says about all tokens is predicted from the important ones."""
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmpretrain.models.selfsup.mae import MAE
from mmpretrain.models.utils import build_clip_model
from torch import Tensor

from ..checkpoints import read_checkpoint
from ..models import PerViT
from ..models.layers import token_grid
from ..utils.errors import UserError
from .block_maps import check_content
from .mae_backbone import MAEPerViT
from .received_attention import received_attention


@MODELS.register_module()
class PerViTMILAN(MAE):
    """Masked pre-training on another network's features (Hou et al. 2022, MILAN).

    A frozen target generator sees the whole image. It gives each token a feature, and says how important it is. The
    visible tokens are drawn by importance. From them, backbone and decoder predict the features of all tokens.
    MMPretrain's ``MILAN`` takes the first token of the generator for a class token, so it doesn't fit PerViT.

    Args:
        backbone (dict): ``MAEPerViT``.
        neck (dict): ``PromptTokenDecoder`` with the generator's ``out_channels`` as ``target_channels``.
        head (dict): MMPretrain's ``MIMHead``. With ``CosineSimilarityLoss(shift_factor=2., scale_factor=2.)`` the loss
            is 2 - 2 cos, the mean over all tokens.
        target_generator (dict): ``PerViTTargetGenerator`` or ``PerViTCLIPTargetGenerator``.
        data_preprocessor (dict, optional): Defaults to None, MMPretrain's ``SelfSupDataPreprocessor``.
        init_cfg (dict, optional): Defaults to None. Don't give one that names layers: it would overwrite the position
            network's initialization.

    Raises:
        UserError: If the backbone is no ``MAEPerViT`` or the neck predicts other widths than the generator has; while
            training, if the generator or the neck has another grid than the backbone.
    """

    def __init__(self, backbone: dict, neck: dict, head: dict, target_generator: dict,
                 data_preprocessor: dict | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(backbone=backbone, neck=neck, head=head, target_generator=target_generator,
                         data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        if not isinstance(self.backbone, MAEPerViT):
            raise UserError(f'backbone of PerViTMILAN must be an MAEPerViT, got {type(self.backbone).__name__}')
        predicted, target = self.neck.target_channels, self.target_generator.out_channels
        if predicted != target:
            raise UserError(f'target_channels of {type(self.neck).__name__} must be {target}, the width of the target '
                            f"generator's features, got {predicted}")

    def loss(self, inputs: Tensor, data_samples: list | None = None) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            inputs (Tensor): Normalized images ``(B, in_channels, h, w)``.
            data_samples (list, optional): Not used.

        Returns:
            dict[str, Tensor]: ``loss``.
        """
        targets, importance = self.target_generator(inputs)
        grid = token_grid(inputs, self.backbone.out_stride)
        if self.neck.hw_shape != grid:
            raise UserError(f'img_size of {type(self.neck).__name__} must be that of the images: they have {grid} '
                            f'tokens, and the decoder has places for {self.neck.hw_shape}')
        latent, _, ids_restore = self.backbone(inputs, self.backbone.draw_mask(inputs, importance))
        return dict(loss=self.head.loss(self.neck(latent, ids_restore), targets))


class FrozenGenerator(BaseModule):
    """A network that never learns and is always in eval mode."""

    def freeze(self) -> None:
        """Call it at the end of ``__init__``."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> 'FrozenGenerator':
        """Stay in eval mode."""
        return super().train(False)


@MODELS.register_module()
class PerViTTargetGenerator(FrozenGenerator):
    """A frozen PerViT that tells features and importance of tokens.

    Choose one that saw no labels, such as the teacher of a self-distillation. The importance of a token is the
    attention that it receives in the last block, see :func:`received_attention`: PerViT has no class token.

    Args:
        backbone (dict): PerViT whose last block attends to all tokens by content and is the only output.
        checkpoint (str | None): Path or URL of its weights. None leaves random weights, for trials.
        prefix (str): What its keys begin with. Defaults to 'teacher.module.backbone.', that of a teacher.

    Raises:
        UserError: If the backbone is no such PerViT; while weights are initialized, if the checkpoint has no such
            weights.
    """

    def __init__(self, backbone: dict, checkpoint: str | None, prefix: str = 'teacher.module.backbone.') -> None:
        super().__init__()
        init_cfg = None if checkpoint is None else dict(type='Pretrained', checkpoint=checkpoint, prefix=prefix)
        self.backbone = MODELS.build(dict(backbone, out_type='raw', init_cfg=init_cfg))
        if not isinstance(self.backbone, PerViT) or self.backbone.out_indices != (self.backbone.num_layers - 1, ):
            raise UserError('backbone of PerViTTargetGenerator must be a PerViT with the last block as its only '
                            f'output, got {backbone!r}')
        check_content(self.backbone, self.backbone.num_layers - 1)
        self.out_channels = self.backbone.out_channels[-1]
        self.freeze()

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(B, in_channels, h, w)`` to features ``(B, N, out_channels)`` and importance ``(B, N)``."""
        with received_attention(self.backbone) as seen:
            tokens = self.backbone(images)[-1]
        return tokens, seen[0]


@MODELS.register_module()
class PerViTCLIPTargetGenerator(FrozenGenerator):
    """The frozen image encoder of CLIP (Radford et al. 2021), as MILAN's authors have it.

    MMPretrain's ``build_clip_model`` makes it of the weights. Features are those behind CLIP's projection. The
    importance of a token is the attention that the class token pays to it in the last block. The images are normalized
    as for the backbone and not as for CLIP, as in MMPretrain's MILAN.

    Args:
        checkpoint (str): Path of a file that holds CLIP's weights by name, such as MMPretrain's
            ``clip_vit_base_16.pth.tar``.

    Raises:
        UserError: If the file holds no weights of a CLIP with a Vision Transformer; while running, if images have
            another size than CLIP's.
    """

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        state = read_checkpoint(checkpoint)
        if not isinstance(state, dict) or not {'visual.proj', 'visual.positional_embedding'} <= state.keys():
            raise UserError(f'checkpoint of PerViTCLIPTargetGenerator must hold the weights of a CLIP with a Vision '
                            f"Transformer, 'visual.proj' among them, got {checkpoint!r}")
        self.visual = build_clip_model(dict(state)).visual  # without the half that reads text
        self.out_channels = self.visual.output_dim
        self.freeze()

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(B, 3, h, w)`` to features ``(B, N, out_channels)`` and importance ``(B, N)``."""
        side = self.visual.input_resolution
        if images.shape[1:] != (3, side, side):
            raise UserError(f'images for PerViTCLIPTargetGenerator must be (B, 3, {side}, {side}), the size of this '
                            f'CLIP, got {tuple(images.shape)}')
        features, attention = self.visual(images)
        return features[:, 1:], attention[:, 0, 1:]
