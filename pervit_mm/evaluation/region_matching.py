"""Do tokens know their place? Tokens of two crops of an image, matched by likeness."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..analysis.capture import find_backbone
from ..utils.errors import UserError, UserTypeError
from .features import evaluating, to_model

# Images that are cropped and run at once.
_BATCH = 64


@dataclass(frozen=True)
class RegionMatching:
    """How many tokens of one crop find their place in another one.

    Attributes:
        accuracy (float): Tokens that find it, in percent of the tokens that are counted.
        chance (float): What a match drawn at random among all tokens of the other crop reaches on average, in percent.
        tokens (int): Tokens that are counted.
    """

    accuracy: float
    chance: float
    tokens: int


@torch.no_grad()
def match_tokens(queries: Tensor, keys: Tensor) -> Tensor:
    """For each query the key of largest cosine.

    Args:
        queries (Tensor): ``(B, N, C)``.
        keys (Tensor): ``(B, M, C)``.

    Returns:
        Tensor: Places of keys, ``(B, N)`` int64.
    """
    return (F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(1, 2)).argmax(-1)


def region_matching_accuracy(backbone: nn.Module, images: Tensor, offsets: Sequence[tuple[int, int]], crop: int,
                             tolerance: float = 1., seed: int = 0) -> RegionMatching:
    """Match the tokens of two crops of an image whose offset is known.

    Each token of crop A takes the token of crop B with the largest cosine similarity. It is right if the centers of the
    two are no more than ``tolerance`` tokens apart in the image. Only tokens of A whose center lies inside B are
    counted. EsViT (Li et al. 2022) trains on matches by largest cosine similarity, whether they are right or not. The
    measure with known offsets is **ours**.

    Features of a place in the crop, whatever the image shows there, would do well at small offsets. So take offsets of
    more than ``tolerance`` tokens.

    Args:
        backbone (nn.Module): A backbone, or a model that has one. Its last output must be tokens ``(B, N, C)`` of a
            square grid or a map ``(B, C, H, W)``, behind the output norm if there is one: ``out_type='raw'`` or
            ``'featmap'`` of PerViT. It is run in eval mode and left as it was.
        images (Tensor): Normalized, ``(n, C, h, w)``.
        offsets (Sequence[tuple[int, int]]): Steps (down, right) from crop A to crop B in pixels, which may be negative.
            For each image one is drawn, and then the place of A among those at which both crops are inside.
        crop (int): Side of the crops in pixels.
        tolerance (float): Largest distance of a right match, in tokens. Defaults to 1.
        seed (int): Draws offsets and places; other generators are left alone. Defaults to 0.

    Returns:
        RegionMatching: Over the counted tokens of all images.

    Raises:
        UserError: If there is no image, two crops don't fit into an image or don't overlap, no token can be counted,
            ``tolerance`` is negative, or the output is neither tokens of a square grid nor a map.
    """
    _check(images, offsets, crop, tolerance)
    right, chance, counted = 0, 0., 0
    places = _draw(len(images), tuple(images.shape[2:]), offsets, crop, seed)
    with evaluating(backbone):
        for part in torch.arange(len(images)).split(_BATCH):
            chosen = [next(places) for _ in part]
            (a, grid), (b, _) = (_tokens(backbone, torch.stack([
                image[:, top:top + crop, left:left + crop]
                for image, (top, left) in zip(images[part], corners)])) for corners in zip(*chosen))
            best = match_tokens(a, b)[..., None]
            first, second = torch.tensor(chosen, dtype=torch.float64).unbind(1)
            near, inside = (x.to(best.device) for x in _right_matches(second - first, crop, grid, tolerance))
            right += int(near.gather(2, best)[..., 0][inside].sum())
            chance += float(near.double().mean(2)[inside].sum())
            counted += int(inside.sum())
    if not counted:
        raise UserError(f'offsets={list(offsets)!r} leave no center of a token inside the other crop of {crop} px: '
                        'give smaller ones')
    return RegionMatching(100 * right / counted, 100 * chance / counted, counted)


def _draw(count: int, size: tuple[int, int], offsets: Sequence[tuple[int, int]], crop: int,
          seed: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Upper left corners (row, column) of crop A and crop B in ``count`` images of ``size`` (h, w)."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        offset = offsets[generator.integers(len(offsets))]
        first = tuple(int(generator.integers(max(0, -step), side - crop - max(0, step) + 1))
                      for step, side in zip(offset, size))
        yield first, (first[0] + offset[0], first[1] + offset[1])


def _right_matches(shifts: Tensor, crop: int, grid: tuple[int, int], tolerance: float) -> tuple[Tensor, Tensor]:
    """Which tokens of crop B are right for each token of crop A, and which tokens of A have their center inside B.

    Args:
        shifts (Tensor): From A to B in pixels, ``(B, 2)`` float64.
        crop (int): Side in pixels.
        grid (tuple[int, int]): (H, W) of a crop, N = H * W.
        tolerance (float): In tokens.

    Returns:
        tuple[Tensor, Tensor]: Boolean ``(B, N, N)`` and ``(B, N)``.
    """
    size = torch.tensor(grid, dtype=torch.float64)
    in_b = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) + 0.5 for n in grid))  # (N, 2), in tokens
    of_a = in_b - (shifts * size / crop)[:, None]  # centers of A as B counts, (B, N, 2)
    distance = (of_a[:, :, None] - in_b).square().sum(-1).sqrt()
    return distance <= tolerance + 1e-9, ((of_a >= 0) & (of_a < size)).all(-1)


def token_stride(backbone: nn.Module, images: Tensor) -> int:
    """Pixels from one token of a backbone to the next.

    Args:
        backbone (nn.Module): As for :func:`region_matching_accuracy`. What has an ``out_stride`` is believed, others
            are run on one image.
        images (Tensor): ``(B, C, h, w)``, normalized.

    Returns:
        int: The stride.

    Raises:
        UserError: If the output is neither tokens of a square grid nor a map.
    """
    if hasattr(backbone, 'out_stride'):
        return backbone.out_stride
    with evaluating(backbone):
        return round(images.shape[2] / _tokens(backbone, images[:1])[1][0])


def _tokens(backbone: nn.Module, crops: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Tokens ``(B, N, C)`` of crops, in float32 or wider, and their grid (H, W)."""
    backbone = find_backbone(backbone)
    output = backbone(to_model(backbone, crops))
    last = output[-1] if isinstance(output, (tuple, list)) and output else output
    shape = tuple(last.shape) if isinstance(last, Tensor) else type(last).__name__
    if isinstance(last, Tensor) and last.dim() == 4:
        tokens, grid = last.flatten(2).transpose(1, 2), shape[2:]
    elif isinstance(last, Tensor) and last.dim() == 3:
        tokens = last[:, getattr(backbone, 'num_extra_tokens', 0):]
        grid = (isqrt(tokens.shape[1]), ) * 2
    else:
        raise UserError(f'the last output of the backbone must be tokens (B, N, C) or a map (B, C, H, W), got {shape}: '
                        "choose another out_type, 'raw' or 'featmap' for PerViT")
    if grid[0] * grid[1] != tokens.shape[1]:
        raise UserError(f'the last output of the backbone has {tokens.shape[1]} tokens {shape}, which are no square '
                        "grid: give a backbone with out_type='featmap'")
    return tokens.to(torch.promote_types(tokens.dtype, torch.float32)), grid


def _check(images: Tensor, offsets: Sequence[tuple[int, int]], crop: int, tolerance: float) -> None:
    """Raise UserError unless two crops at each of the offsets fit into an image and overlap."""
    if not isinstance(images, Tensor) or images.dim() != 4 or not len(images):
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise UserTypeError(f'images must be a tensor (n, C, h, w) of at least one image, got {got}')
    size = tuple(images.shape[2:])
    if type(crop) is not int or not 1 <= crop <= min(size):
        raise UserError(f'crop must be a side in pixels from 1 to {min(size)}, that of the images, got {crop!r}')
    if not offsets or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 and
                              all(type(step) is int for step in pair) for pair in offsets):
        raise UserError(f'offsets must be steps (down, right) in whole pixels, such as [(8, 0), (0, 8)], got '
                        f'{offsets!r}')
    for pair in offsets:
        if any(abs(step) >= crop or crop + abs(step) > side for step, side in zip(pair, size)):
            raise UserError(f"offsets has {tuple(pair)}, and two crops of {crop} px that overlap don't fit into "
                            f'{size[0]} x {size[1]} px at it: give steps of at most '
                            f'{min(size[0] - crop, crop - 1)} down and {min(size[1] - crop, crop - 1)} right')
    if not tolerance >= 0:
        raise UserError(f'tolerance must be a distance in tokens of at least 0, got {tolerance!r}')
