"""log Φp of one or several blocks from a map over offsets.

The distance R(q, k) depends on k - q alone. So everything before the first norm is *one* map over the
(2H - 1 + 2p) x (2W - 1 + 2p) offsets instead of a volume over all query-key pairs. The first norm treats the keys of
each query separately. Its mean and variance are sliding-window averages of that map. Only the steps after these
averages need work per query. They run on slices of queries and are recomputed in backward, so memory stays bounded on
large grids. Nothing of this is an approximation.

Here p = kernel // 2 is the margin of one convolution. The key grid is extended by 2p tokens on each side, so that two
unpadded convolutions end on the grid itself.
"""
from itertools import repeat
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .derivatives import is_transformed
from .devices import default_slice_bytes
from .distance import offset_distances
from .position_per_query import query_position
from .position_plain import plain_query_position
from .precision import exact_dtype


class PositionWeights(NamedTuple):
    """Weights of the position networks of L blocks, all float32.

    Attributes:
        proj_weight (Tensor): w_r, ``(D, 1)``, shared by all blocks.
        proj_bias (Tensor): b_r, ``(D,)``, likewise.
        conv1_weight (Tensor): ``(L, D, D, k, k)``.
        conv1_bias (Tensor): ``(L, D)``.
        norm1_weight, norm1_bias (Tensor, optional): ``(L, D)``; None leaves the first norm out.
        conv2_weight (Tensor): ``(L, nH, D, k, k)``.
        conv2_bias (Tensor): ``(L, nH)``.
        norm2_weight, norm2_bias (Tensor, optional): γ and β, ``(L, nH)``; None leaves the last norm out.
    """

    proj_weight: Tensor
    proj_bias: Tensor
    conv1_weight: Tensor
    conv1_bias: Tensor
    norm1_weight: Tensor | None
    norm1_bias: Tensor | None
    conv2_weight: Tensor
    conv2_bias: Tensor
    norm2_weight: Tensor | None
    norm2_bias: Tensor | None


def window_starts(size: int, window: int, device: torch.device | None = None) -> Tensor:
    """First key of the window around each query, clamped to the grid.

    Args:
        size (int): Tokens along the axis.
        window (int): Keys the window holds, at most ``size``.
        device (torch.device, optional): Where the result is made.

    Returns:
        Tensor: ``(size,)`` int64. With ``window == size`` all zero.
    """
    queries = torch.arange(size, device=device)
    return (queries - window // 2).clamp(0, size - window)


def band_average(starts: Tensor, window: int, length: int) -> Tensor:
    """Matrix whose row t averages ``window`` entries from ``starts[t]`` on.

    Sliding averages by two small matrix products beat pooling: they take any start for each query, and their gradient
    is two more matrix products.

    Args:
        starts (Tensor): ``(T,)`` int64.
        window (int): Entries averaged.
        length (int): Number of entries.

    Returns:
        Tensor: ``(T, length)`` in :func:`exact_dtype`, rows summing to one.
    """
    index = torch.arange(length, device=starts.device)[None]
    inside = (index >= starts[:, None]) & (index < starts[:, None] + window)
    return inside.to(exact_dtype(starts.device)) / window


def hidden_offset_map(weights: PositionWeights, hw_shape: tuple[int, int], step: float) -> Tensor:
    """First convolution of the projected distances, for every offset at once.

    The projected distances R·w_r + b_r are affine in R. So the convolution of their D channels is one convolution of R
    itself with the kernel Σ_c W1[o, c]·w_r[c]. One matrix product computes it for all blocks.

    Args:
        weights (PositionWeights): Of L blocks.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        step (float): Distance between neighboring tokens.

    Returns:
        Tensor: ``(L, D, 2H - 1 + 2p, 2W - 1 + 2p)`` in :func:`exact_dtype`.
    """
    blocks, channels, _, kernel, _ = map(int, weights.conv1_weight.shape)  # in a trace, sizes are tensors
    distances = offset_distances(hw_shape, step, 2 * (kernel // 2), weights.proj_weight.device)
    exact = exact_dtype(distances.device)
    patches = F.unfold(distances[None, None], kernel)[0].to(exact)
    conv1 = weights.conv1_weight.to(exact)
    taps = torch.einsum('locij,cx->loij', conv1, weights.proj_weight.to(exact))
    # A product with a matrix of one column: fvcore's counter takes no vector.
    bias = weights.conv1_bias.to(exact)[..., None] + conv1.sum((3, 4)) @ weights.proj_bias.to(exact)[:, None]
    hidden = torch.addmm(bias.reshape(-1, 1), taps.reshape(blocks * channels, -1), patches)
    side = 2 * hw_shape[0] - 1 + 2 * (kernel // 2)
    return hidden.reshape(blocks, channels, side, -1)


def first_norm(hidden: Tensor, weights: PositionWeights, hw_shape: tuple[int, int],
               stat_hw: tuple[int, int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """First norm as one factor and one summand for each query.

    Args:
        hidden (Tensor): Offset maps, ``(L, D, 2H - 1 + 2p, 2W - 1 + 2p)``.
        weights (PositionWeights): Of the L blocks.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        stat_hw (tuple[int, int]): Window of keys around a query that mean and variance are taken over, at most (H, W).
        eps (float): Added to the variance.

    Returns:
        tuple[Tensor, Tensor, Tensor]: The maps minus their own means; then factor and summand, each ``(L, D, H, W)`` by
        query. All float32.
    """
    kernel = int(weights.conv1_weight.shape[-1])
    margin = kernel // 2
    # A constant cancels in the norm. Without the mean the variance below, a difference of squares, keeps its digits.
    hidden = hidden - hidden.mean((2, 3), keepdim=True)
    bands = []
    for size, stat, length in zip(hw_shape, stat_hw, hidden.shape[2:]):
        queries = torch.arange(size, device=hidden.device)
        # The window's first key is -margin + start. This is the map's index of its offset from the query.
        first = window_starts(size, stat, hidden.device) - queries + size - 1
        bands.append(band_average(first, stat + 2 * margin, length))
    rows, cols = bands[0], bands[1].t()
    mean = rows @ hidden @ cols
    variance = (rows @ hidden.square() @ cols - mean.square()).clamp_min(0)
    factor = weights.norm1_weight[..., None, None] * torch.rsqrt(variance + eps)
    summand = weights.norm1_bias[..., None, None] - mean * factor
    return hidden.float(), factor.float(), summand.float()


def log_positions(weights: PositionWeights, hw_shape: tuple[int, int], step: float,
                  stat_hw: tuple[int, int] | None = None, eps: float = 1e-5,
                  slice_bytes: int | None = None) -> tuple[Tensor, ...]:
    """log Φp of a grid, Φp = sigmoid of the position logits (paper: peripheral projections).

    Args:
        weights (PositionWeights): Of L blocks, float32.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
        step (float): Distance between neighboring tokens.
        stat_hw (tuple[int, int], optional): Both norms take mean and variance over a window of this many keys around
            the query, clamped to the grid, instead of over all keys. Defaults to None, all keys.
        eps (float): Of both norms. Defaults to 1e-5.
        slice_bytes (int, optional): Bytes of hidden values that a slice of queries may hold; slices are recomputed in
            backward. Defaults to None, which is what suits the device, see :func:`default_slice_bytes`.

    Returns:
        tuple[Tensor, ...]: ``(nH, N, N)`` float32 of each block, rows queries.
    """
    stat_hw = hw_shape if stat_hw is None else (min(stat_hw[0], hw_shape[0]), min(stat_hw[1], hw_shape[1]))
    hidden = hidden_offset_map(weights, hw_shape, step)
    factor = summand = None
    if weights.norm1_weight is not None:
        hidden, factor, summand = first_norm(hidden, weights, hw_shape, stat_hw, eps)
        factor, summand = factor.flip(2, 3), summand.flip(2, 3)  # into the order of windows, see expand_offsets
    hidden = hidden.float()
    rows, cols = key_shares(weights, hw_shape, stat_hw, hidden.device)
    if slice_bytes is None:
        slice_bytes = default_slice_bytes(hidden.device)
    blocks_each, queries_each = slice_plan(weights, hw_shape, slice_bytes)
    by_block = (hidden, factor, summand, weights.conv2_weight, weights.conv2_bias, weights.norm2_weight,
                weights.norm2_bias)
    # A trace is one graph for both modes: torch records it with gradients and checks it without.
    keep = torch.is_grad_enabled() or torch.jit.is_tracing()
    made: list[Tensor] = []
    # Not by slicing: the gradient of a slice is a whole tensor of zeros.
    for part in zip(*(repeat(None) if t is None else t.split(blocks_each) for t in by_block)):
        if is_transformed():
            log_position = plain_query_position(*part, rows, cols, hw_shape, eps)
        else:
            log_position = query_position(*part, rows, cols, hw_shape, eps, queries_each, keep)[0]
        made += log_position.flatten(4, 5).flatten(2, 3).unbind()
    return tuple(made)


def key_shares(weights: PositionWeights, hw_shape: tuple[int, int], stat_hw: tuple[int, int],
               device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """Share of each key in the last norm's statistics, along each axis.

    Args:
        weights (PositionWeights): Of L blocks.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        stat_hw (tuple[int, int]): Window of keys around a query that mean and variance are taken over, at most (H, W).
        device (torch.device): Where the result is made.

    Returns:
        tuple[Tensor, Tensor]: ``(H, H)`` and ``(W, W)`` float32, queries first. None twice if all keys count alike, or
        there is no last norm.
    """
    if weights.norm2_weight is None or tuple(stat_hw) == tuple(hw_shape):
        return None, None
    return tuple(band_average(window_starts(size, stat, device), stat, size).float()
                 for size, stat in zip(hw_shape, stat_hw))


def slice_plan(weights: PositionWeights, hw_shape: tuple[int, int], slice_bytes: int) -> tuple[int, int]:
    """How many blocks and queries to work on at a time, so that hidden values stay under a number of bytes.

    Args:
        weights (PositionWeights): Of L blocks.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        slice_bytes (int): Bytes of hidden values that a slice may hold.

    Returns:
        tuple[int, int]: Blocks in a slice, and queries of each block; both at least 1.
    """
    blocks, channels, _, kernel, _ = map(int, weights.conv1_weight.shape)  # in a trace, sizes are tensors
    margin, (h, w) = kernel // 2, hw_shape
    query_bytes = 4 * channels * (h + 2 * margin) * (w + 2 * margin)  # float32
    blocks_each = max(1, min(blocks, slice_bytes // (query_bytes * w)))
    return blocks_each, max(1, slice_bytes // (query_bytes * blocks_each))
