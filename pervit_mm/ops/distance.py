"""Distances between the tokens of a grid, as one map over offsets."""

import torch
from torch import Tensor

from .devices import few_launches


def grid_step(hw_shape: tuple[int, int], pretrain_hw: tuple[int, int] | None = None) -> float:
    """Distance between neighboring tokens.

    Both axes share one step, so a ring of equal distance is a ring on any grid. On a square n x n grid this is the
    spacing of ``linspace(-1, 1, n)``, which the paper uses.

    Args:
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        pretrain_hw (tuple[int, int], optional): Grid that gives the step of a 1 x 1 grid, which has no spacing of its
            own. Defaults to None, which gives it a step of 2.

    Returns:
        float: ``2 / (max(H, W) - 1)``.
    """
    side = max(hw_shape)
    if side == 1 and pretrain_hw is not None:
        side = max(pretrain_hw)
    return 2.0 / max(side - 1, 1)


def offset_distances(hw_shape: tuple[int, int], step: float, margin: int = 0,
                     device: torch.device | None = None) -> Tensor:
    """Euclidean distance for every offset k - q that a grid has.

    Args:
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        step (float): Distance between neighboring tokens, see :func:`grid_step`.
        margin (int): Tokens by which the key grid is extended on each side. Defaults to 0.
        device (torch.device, optional): Where the map is made.

    Returns:
        Tensor: ``(2H - 1 + 2 * margin, 2W - 1 + 2 * margin)``, float32, offset zero in the center.
    """
    h, w = hw_shape
    rows = torch.arange(1 - h - margin, h + margin, device=device, dtype=torch.float32)
    cols = torch.arange(1 - w - margin, w + margin, device=device, dtype=torch.float32)
    return step * torch.sqrt(rows[:, None]**2 + cols[None, :]**2)


def expand_offsets(offset_map: Tensor, hw_shape: tuple[int, int], margin: int = 0) -> Tensor:
    """View of an offset map as one window of keys for each query, without a copy.

    **Windows run backwards.** The map holds offsets (key minus query). The first query has the largest offsets, so its
    window is the *last* one of the map; the last query's window is the first. One axis with H = 3, no margin::

        offset map         -2  -1   0  +1  +2
        query 2, window 0  [-----------]            keys 0 1 2 are at offsets -2 -1  0
        query 1, window 1      [-----------]        keys 0 1 2 are at offsets -1  0 +1
        query 0, window 2          [-----------]    keys 0 1 2 are at offsets  0 +1 +2

    So the query axes of the view count windows, not queries: entry a belongs to query H - 1 - a. Callers flip the
    (much smaller) result.

    Args:
        offset_map (Tensor): ``(..., 2H - 1 + 2 * margin, 2W - 1 + 2 * margin)``.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        margin (int): Tokens by which the key grid is extended on each side. Defaults to 0.

    Returns:
        Tensor: View ``(..., H, W, H + 2 * margin, W + 2 * margin)``; entry ``[..., a, b, :, :]`` belongs to query
        ``(H - 1 - a, W - 1 - b)``.
    """
    h, w = hw_shape
    return offset_map.unfold(-2, h + 2 * margin, 1).unfold(-2, w + 2 * margin, 1)


def fold_offsets(windows: Tensor, offset_map: Tensor) -> None:
    """Add windows to the map that they were cut from, each where it lies: the gradient of :func:`expand_offsets`.

    Args:
        windows (Tensor): ``(..., r, c, h, w)``.
        offset_map (Tensor): ``(..., r - 1 + h, c - 1 + w)``; changed in place. For a part of all windows this is the
            part of the map under them.
    """
    *outer, rows, cols, height, width = windows.shape
    if few_launches(windows.device):
        # Two kernels, first along rows, then along columns. Each value of the map gathers what belongs to it.
        folded = torch.ops.aten.unfold_backward(windows, [*outer, rows, cols - 1 + width, height], -2, width, 1)
        offset_map.add_(torch.ops.aten.unfold_backward(folded, [*outer, *offset_map.shape[-2:]], -2, height, 1))
        return
    for i in range(rows):  # on the CPU this is faster
        for j in range(cols):
            offset_map[..., i:i + height, j:j + width].add_(windows[..., i, j, :, :])


def pairwise_distances(hw_shape: tuple[int, int], step: float,
                       device: torch.device | None = None) -> Tensor:
    """Euclidean distance of every query-key pair, for analysis only: the model itself works on offset maps.

    Args:
        hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
        step (float): Distance between neighboring tokens, see :func:`grid_step`.
        device (torch.device, optional): Where the matrix is made.

    Returns:
        Tensor: ``(N, N)`` float32, rows queries.
    """
    n = hw_shape[0] * hw_shape[1]
    offsets = offset_distances(hw_shape, step, device=device)
    return expand_offsets(offsets[None], hw_shape).flip(1, 2).reshape(n, n)
