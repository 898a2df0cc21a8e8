"""Class activation maps without gradients: the logits of each token."""
from collections import deque

from torch import Tensor, nn

from ..models import PerViT
from ..utils.errors import UserError
from .block_recorder import is_a


def logit_cam(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of each token, whose mean over the tokens is exactly the logits of the model.

    The head is linear and comes right after the mean over tokens, so the order may be changed: logits of the mean are
    the mean of logits. Nothing is approximated. For convolutional networks this is the class activation map of Zhou et
    al. 2016; for transformers with mean pooling see Ghiasi et al. 2022, section 4.

    Args:
        model (nn.Module): A classifier of MMPretrain with ``LinearClsHead`` and PerViT; or with a backbone that returns
            a map and the neck ``GlobalAveragePooling``, such as ResNet or Swin. Call ``model.eval()`` first, unless
            dropout is wanted.
        images (Tensor): Normalized inputs, ``(B, C, h, w)``.

    Returns:
        Tensor: ``(B, classes, H, W)``.

    Raises:
        UserError: If the equality does not hold for this model, with the reason.
    """
    model = getattr(model, 'module', model)
    head = getattr(model, 'head', None)
    if not is_a(head, 'LinearClsHead') or not hasattr(model, 'backbone'):
        raise UserError('model must be a classifier with one linear layer behind the mean over tokens (LinearClsHead), '
                        f'got {type(model).__name__} with the head {type(head).__name__}')
    maps = _averaged_map(model, images)
    return head.fc(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _averaged_map(model: nn.Module, images: Tensor) -> Tensor:
    """``(B, C, H, W)``: the map whose mean over places is the input of the head."""
    backbone, neck = model.backbone, getattr(model, 'neck', None)
    if isinstance(backbone, PerViT) and backbone.out_type == 'avg_featmap' and neck is None:
        embedded, hw_shape = backbone.embed(images)
        last = deque(backbone.run_blocks(embedded, hw_shape, backbone.position_terms(hw_shape)), maxlen=1).pop()
        tokens = getattr(backbone, f'norm{backbone.out_indices[-1]}')(last)
        return tokens.transpose(1, 2).unflatten(2, hw_shape)
    reason = f'the head does not get the mean of a map (neck {type(neck).__name__})'
    if getattr(backbone, 'out_type', None) == 'cls_token':
        reason = 'the head reads the class token and no other'
    elif hasattr(backbone, 'ln2') or getattr(backbone, 'gap_before_final_norm', False):
        reason = 'a norm comes behind the mean over tokens, and the norm of a mean is not the mean of norms'
    elif is_a(neck, 'GlobalAveragePooling'):
        output = backbone(images)[-1]
        if output.dim() == 4:
            return output
        reason = f'its output has the shape {tuple(output.shape)} and not that of a map (B, C, H, W)'
    raise UserError(f"the logits of single tokens don't add up to those of model with {type(backbone).__name__}: "
                    f'{reason}; use a model with mean pooling right ahead of its linear head, or grad-cam')
