"""What is exported: a PerViT, or a classifier around one, from a config and a checkpoint."""
from pathlib import Path

from mmengine.config import Config
from torch import Tensor, nn

from ..checkpoints import read_classifier
from ..models import PerViT
from ..utils.errors import UserError
from .building import build, load_strictly


class ExportedModel(nn.Module):
    """Images in, logits or feature maps out.

    Args:
        model (nn.Module): A PerViT, or a classifier of MMPretrain around one. It is put into eval mode, and its
            parameters are frozen.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)

    @property
    def backbone(self) -> PerViT:
        """The PerViT."""
        return self.model if isinstance(self.model, PerViT) else self.model.backbone

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return next(self.backbone.stem.parameters()).shape[1]  # of the first convolution's weight

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Images ``(B, C, h, w)`` to logits ``(B, num_classes)``, or to the backbone's tuple."""
        outputs = self.model(images)
        if not isinstance(outputs, Tensor) and self.model is not self.backbone:
            raise UserError(f'model.head must return one tensor, the logits, got {type(outputs).__name__}: give '
                            '--backbone-only')
        return outputs

    def output_names(self) -> list[str]:
        """'logits', or for a backbone 'block{i}' for each of ``out_indices``."""
        return [f'block{i}' for i in self.backbone.out_indices] if self.model is self.backbone else ['logits']


def load_model(cfg: Config, checkpoint: str | Path, backbone_only: bool = False) -> ExportedModel:
    """Build what is to be exported, with the weights of a checkpoint, none missing and none left over.

    Args:
        cfg (Config): A config of MMPretrain. For the backbone alone a config of any toolbox, which isn't imported.
        checkpoint (str | Path): A file written by a training with this config or by a converter; or ``pervit_mm://``
            and the name of a published one.
        backbone_only (bool): Whether only ``model.backbone`` is exported. Defaults to False.

    Returns:
        ExportedModel: In eval mode on the CPU, not deployed.

    Raises:
        UserError: If the config cannot be exported, or the checkpoint doesn't fit it.
    """
    config = cfg.get('model') or {}
    scope = cfg.get('default_scope', 'mmengine')
    if not isinstance(config.get('backbone'), dict):
        raise UserError('the config has no model.backbone, so there is no PerViT in it to export')
    if not backbone_only and scope != 'mmpretrain':
        raise UserError(f"the config's default_scope is {scope!r}, and only classifiers of 'mmpretrain' are exported "
                        'as a whole: give --backbone-only')
    # The backbone is registered at the root, so it needs no scope. Without a scope no toolbox is imported.
    model = build(config.backbone, None) if backbone_only else build(config, scope)
    backbone = model if backbone_only else getattr(model, 'backbone', None)
    if not isinstance(backbone, PerViT):
        raise UserError(f'model.backbone must be a PerViT, got {config.backbone.get("type")!r}')
    prefix = 'backbone.' if backbone_only else ''
    state = read_classifier(checkpoint)
    load_strictly(model, {key[len(prefix):]: value for key, value in state.items() if key.startswith(prefix)},
                  f"checkpoint '{checkpoint}'")
    return ExportedModel(model)
