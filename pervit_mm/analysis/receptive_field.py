"""Which pixels the center of a feature map depends on, and how much."""
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..utils.errors import UserError
from .capture import BlockRecord, capture, find_backbone

#: Shares of the whole for which RepLKNet's authors give the area.
SHARES = (0.2, 0.3, 0.5, 0.99)


def center_gradient(forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """How much the center of a feature map rises with each pixel.

    The features at the center (H // 2, W // 2), negative ones set to zero, are summed over the channels. The gradient
    of this sum is taken, negative values set to zero, summed over the channels of the image and averaged over the
    images. (Ding et al. 2022, Scaling Up Your Kernels to 31x31, and their ``erf/visualize_erf.py``.)

    Args:
        forward (Callable): Images ``(1, C, h, w)`` to a feature map ``(1, channels, H, W)``. No image may influence the
            features of another one, so BatchNorm must be in eval mode.
        images (Tensor): ``(B, C, h, w)`` as the network takes them. They run one by one, so that memory holds the
            activations of one.

    Returns:
        Tensor: ``(h, w)``, float32 or wider, not negative.

    Raises:
        UserError: If there is no image.
    """
    if not len(images):
        raise UserError('images must hold at least one image, got none')
    total = 0
    with torch.enable_grad():
        for image in images.detach().split(1):
            image = image.clone().requires_grad_()
            features = forward(image)
            h, w = features.shape[-2:]
            center = features[:, :, h // 2, w // 2].relu().sum()
            gradient = torch.autograd.grad(center, image)[0].relu().sum((0, 1))
            total = total + gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    return total / len(images)


def effective_receptive_field(model: nn.Module, images: Tensor, block: int = -1) -> Tensor:
    """How much the center token after a block rises with each pixel; see :func:`center_gradient`.

    Args:
        model (nn.Module): A model that :func:`capture` supports, in eval mode.
        images (Tensor): ``(B, C, h, w)``, normalized. RepLKNet's authors take 50.
        block (int): Number of the block, negative ones counted from the end. Defaults to -1, the last block.

    Returns:
        Tensor: ``(h, w)``, float32 or wider, not negative.

    Raises:
        UserError: If the model is in training mode or not supported, or has no such block.
    """
    backbone = find_backbone(model)
    if backbone.training:
        raise UserError('model must be in eval mode, because dropped paths and batch statistics would change the '
                        'gradient; call model.eval() first')

    def forward(image: Tensor) -> Tensor:
        with capture(backbone, attention=False, features=True, each=_as_map) as record:
            backbone(image)
        if not -len(record) <= block < len(record):
            raise UserError(f'block must be the number of one of {len(record)} blocks, got {block!r}')
        return record.blocks[block]

    return center_gradient(forward, images)


def area_ratios(contributions: Tensor, shares: Sequence[float] = SHARES) -> list[float]:
    """Area of the smallest centered square that holds a share of the whole, over the area of the image.

    The square has an odd side, and the image clips it. Its center is the pixel with half of the map above it and half
    to its left. RepLKNet's authors take (h // 2, w // 2), where the central token of their networks looks. Others look
    elsewhere: the central token of a 7 x 7 grid on 28 px at 12, a patch at its own center. The authors also take
    log10(1 + x) of the map before. We don't, because its effect depends on the scale of the features.

    Args:
        contributions (Tensor): ``(h, w)``, not negative, from :func:`effective_receptive_field`.
        shares (Sequence[float]): Each above 0 and at most 1. Defaults to :data:`SHARES`.

    Returns:
        list[float]: For each share a value above 0 and at most 1. A small one means that the center hangs on few
        pixels. A uniform map gives about the share itself.

    Raises:
        UserError: If a share is out of range, or the map holds only zeros.
    """
    for share in shares:
        if not 0 < share <= 1:
            raise UserError(f'shares must be numbers above 0 and at most 1, got {share!r}')
    values = contributions.detach().to('cpu', torch.float64)
    h, w = values.shape
    if not values.sum() > 0:
        raise UserError('contributions must be above zero somewhere, got none such: no pixel raises the center of '
                        'these features; try other images or another block')
    rows, cols = ((torch.arange(len(part)) - _middle(part)).abs() for part in (values.sum(1), values.sum(0)))
    rings = torch.maximum(rows[:, None], cols[None, :]).flatten()  # number of the square ring that a pixel is on
    inside = torch.bincount(rings, values.flatten()).cumsum(0)
    areas = torch.bincount(rings).cumsum(0)
    # Sums in another order differ in the last digits, so the whole is the last sum itself.
    return [areas[(inside < share * inside[-1]).sum()].item() / (h * w) for share in shares]


def _middle(values: Tensor) -> int:
    """Index up to which half of a sum comes together."""
    return int((values.cumsum(0) < 0.5 * values.sum() * (1 - 1e-9)).sum())


def _as_map(block: BlockRecord) -> Tensor:
    """Tokens after a block as a map ``(B, C, H, W)``."""
    return block.output.transpose(1, 2).unflatten(2, block.hw_shape)
