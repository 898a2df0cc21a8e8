"""How well features follow objects through a video: label propagation against known masks."""
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..analysis.propagation import PROTOCOLS, Protocol, propagate_mask
from ..utils.errors import UserError


def region_similarity(found: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> dict[int, float]:
    """J of DAVIS for each object of the first frame: intersection over union, mean over the frames.

    The first frame is given and doesn't count. An object that is hidden in a frame and not found there counts as 1.
    Source: Pont-Tuset et al. 2017, "The 2017 DAVIS challenge on video object segmentation". They leave out the last
    frame too.

    Args:
        found (Sequence[np.ndarray]): Masks of all frames, ``(h, w)`` each, 0 for the ground.
        truth (Sequence[np.ndarray]): The true ones.

    Returns:
        dict[int, float]: J from 0 to 1, by the object's number in the masks.

    Raises:
        UserError: If the masks are of other shapes, there is no second frame, or the first frame has no object.
    """
    found, truth = np.asarray(found), np.asarray(truth)
    if found.shape != truth.shape or truth.ndim != 3 or len(truth) < 2:
        raise UserError(f'found and truth must be masks (h, w) of the same frames, at least two, got {found.shape} and '
                        f'{truth.shape}')
    objects = [int(number) for number in np.unique(truth[0]) if number]
    if not objects:
        raise UserError('truth must have an object in its first frame, got 0 in all pixels')
    scores = {}
    for number in objects:
        mine, real = found[1:] == number, truth[1:] == number
        both, any_of_them = (mine & real).sum((1, 2)), (mine | real).sum((1, 2))
        scores[number] = float(np.where(any_of_them > 0, both / np.maximum(any_of_them, 1), 1.).mean())
    return scores


def follow_objects(features: Tensor | None, masks: np.ndarray,
                   protocol: Protocol = PROTOCOLS['sfc']) -> dict[int, float]:
    """J of the masks that features carry from the first frame through the others.

    Args:
        features (Tensor, optional): ``(F, H, W, C)``. None copies the first mask to all frames, which any features
            should beat.
        masks (np.ndarray): The true masks ``(F, h, w)``, 0 for the ground.
        protocol (Protocol): Defaults to that of SFC.

    Returns:
        dict[int, float]: J by object, see :func:`region_similarity`.

    Raises:
        UserError: As :func:`region_similarity` and :func:`pervit_mm.analysis.propagate_mask`.
    """
    found = [masks[0]] * len(masks) if features is None else list(propagate_mask(features, masks[0], protocol))
    return region_similarity(found, masks)


def pixel_tokens(images: Tensor, stride: int, size: int | None = None) -> Tensor:
    """Pixels as features of tokens: what a network has to beat.

    Args:
        images (Tensor): ``(B, C, h, w)``, h and w multiples of ``stride``.
        stride (int): Height and width of a token in pixels.
        size (int, optional): Side of the square around a token's center whose pixels are taken, ``stride`` plus an even
            number. What lies outside of the image is 0. Defaults to None, ``stride``.

    Returns:
        Tensor: ``(B, H, W, C * size * size)``.

    Raises:
        UserError: If sides and ``stride`` or ``size`` don't fit together.
    """
    size, sides = size or stride, tuple(images.shape[2:])
    if any(side % stride for side in sides) or size < stride or (size - stride) % 2:
        raise UserError(f'images must have sides that are multiples of stride={stride}, and size must be stride plus '
                        f'an even number, got sides {sides} and size={size}')
    columns = F.unfold(images, size, padding=(size - stride) // 2, stride=stride)  # (B, C * size * size, N)
    return columns.transpose(1, 2).unflatten(1, tuple(side // stride for side in sides))
