"""The part of an image that two crops share, found again in the features of each."""
import torch
from torch import Tensor
from torchvision.ops import roi_align

from ..utils.errors import UserError


def overlap_regions(boxes: Tensor, num: int) -> Tensor:
    """Where the crops of an image overlap, as each of them sees it.

    Args:
        boxes (Tensor): ``(B, V, 4)``: x1, y1, x2, y2 of V crops in pixels of their image, see
            :class:`pervit_mm.selfsup.MultiCropWithBoxes`.
        num (int): The first so many crops must overlap with all of their image.

    Returns:
        Tensor: ``(B, V, V, 4)``. ``[:, i, j]`` is the overlap of crops i and j: x1, y1, x2, y2 as shares of crop i. For
        crops that don't overlap it means nothing.

    Raises:
        UserError: If one of the first crops doesn't overlap with another of its image.
    """
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    if not (high > low)[:, :num].all():
        raise UserError('boxes must overlap, and two views of an image do not: set min_overlap=0.01 of '
                        'MultiCropWithBoxes')
    start, size = boxes[:, :, None, :2], (boxes[..., 2:] - boxes[..., :2])[:, :, None]
    return torch.cat([(low - start) / size, (high - start) / size], dim=-1)


def align_regions(maps: Tensor, regions: Tensor, size: int) -> Tensor:
    """Values of maps in regions, on a grid of ``size`` x ``size`` points: RoIAlign (He et al. 2017).

    Args:
        maps (Tensor): ``(B, C, H, W)``.
        regions (Tensor): ``(B, R, 4)``: x1, y1, x2, y2 of R regions of each map, as shares of its sides.
        size (int): Side of the grid.

    Returns:
        Tensor: ``(B, R, C, size, size)`` in float32, or float64 for such maps.
    """
    height, width = maps.shape[2:]
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    boxes = regions.to(maps) * maps.new_tensor([width, height, width, height])
    return roi_align(maps, list(boxes), size, aligned=True).unflatten(0, regions.shape[:2])
