"""What a teacher looks at, as a mask."""
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from ..utils.errors import UserError
from .checks import check_share

#: Side and deviation of the blur in tokens, and the size up to which a component is dropped: those of the authors.
BLUR, SIGMA, SPECK = 7, 0.6, 2


@torch.no_grad()
def attention_foreground(attention: Tensor, hw_shape: tuple[int, int], mass: float = 0.6) -> Tensor:
    """The tokens that hold most of the attention: the foreground of Leopart (Ziegler and Asano 2022).

    The attention is blurred. The most attended tokens are taken until they hold ``mass`` of it. Of these, components of
    at most two tokens are dropped, where tokens that touch at a corner are connected. A ``mass`` of 1 takes all tokens.

    Args:
        attention (Tensor): ``(B, N)``, not negative: what each token receives.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens, both at least 4, with which a blur of 7 tokens can be made.
        mass (float): Share of the attention, from 0 to 1. Defaults to 0.6.

    Returns:
        Tensor: Boolean ``(B, H, W)`` on the device of the attention. An image may have no foreground.

    Raises:
        UserError: If ``mass`` is no share, or the attention doesn't fit the grid.
    """
    check_share(mass=mass)
    height, width = hw_shape
    if attention.dim() != 2 or attention.shape[1] != height * width or min(hw_shape) <= BLUR // 2:
        raise UserError(f'attention must be (B, H * W) of a grid of at least {BLUR // 2 + 1} x {BLUR // 2 + 1} tokens, '
                        f'got {tuple(attention.shape)} for hw_shape={tuple(hw_shape)}: take larger images')
    if mass == 1:  # sums of float32 would lose the smallest values
        return attention.new_ones(len(attention), height, width, dtype=torch.bool)
    blurred = gaussian_blur(attention.float().view(-1, 1, height, width), [BLUR, BLUR], [SIGMA, SIGMA]).flatten(1)
    value, order = blurred.sort(dim=1, descending=True)
    ahead = value.cumsum(1) - value  # what the tokens before it hold
    taken = torch.zeros_like(blurred, dtype=torch.bool)
    taken.scatter_(1, order, ahead < mass * value.sum(1, keepdim=True))
    return _without_specks(taken.view(-1, height, width))


def _without_specks(masks: Tensor) -> Tensor:
    """Boolean masks ``(B, H, W)`` without components of at most :data:`SPECK` tokens."""
    # One tall image with an empty row behind each mask, so that OpenCV is called once.
    tall = F.pad(masks, (0, 0, 0, 1)).flatten(0, 1).byte().cpu().numpy()
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(tall, connectivity=8)
    kept = statistics[:, cv2.CC_STAT_AREA] > SPECK
    kept[0] = False  # the ground
    found = torch.from_numpy(np.ascontiguousarray(kept[labels])).view(len(masks), -1, masks.shape[2])
    return found[:, :-1].to(masks.device)
