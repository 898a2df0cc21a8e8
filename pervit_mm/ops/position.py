"""Position logits of one layer from a map over offsets.

The distance R(q, k) depends on k - q alone. So everything ahead of the first norm, which looks at each query's keys
apart, is *one* map over the (2H - 1 + 2p) x (2W - 1 + 2p) offsets instead of a volume over all query-key pairs, and the
norm's mean and variance are sliding-window averages of that map. Only from there on is work per query needed, and it is
done in slices of queries under recomputation, so memory stays bounded on large grids. All of it is exact.

Here p = kernel // 2 is the margin of one convolution; the key grid is extended by 2p tokens on each side, so two
unpadded convolutions end on the grid itself.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .distance import expand_offsets, offset_distances

#: Hidden values (bytes) that one slice of queries may hold; larger grids are cut into several slices.
SLICE_BYTES = 32 * 2**20


class PositionWeights(NamedTuple):
    """Weights of one layer's position network, all float32.

    Attributes:
        proj_weight (Tensor): w_r, ``(D, 1)``, shared by all layers.
        proj_bias (Tensor): b_r, ``(D,)``.
        conv1_weight (Tensor): ``(D, D, k, k)``.
        conv1_bias (Tensor): ``(D,)``.
        norm1_weight, norm1_bias (Tensor, optional): ``(D,)``; None leaves the first norm out.
        conv2_weight (Tensor): ``(nH, D, k, k)``.
        conv2_bias (Tensor): ``(nH,)``.
        norm2_weight, norm2_bias (Tensor, optional): γ and β, ``(nH,)``; None leaves the last norm out.
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
        length (int): Entries there are.

    Returns:
        Tensor: ``(T, length)`` float32, rows summing to one.
    """
    index = torch.arange(length, device=starts.device)[None]
    inside = (index >= starts[:, None]) & (index < starts[:, None] + window)
    return inside.float() / window


def hidden_offset_map(weights: PositionWeights, hw_shape: tuple[int, int], step: float) -> Tensor:
    """First convolution of the projected distances, for every offset at once.

    D = R·w_r + b_r is affine in R, so the convolution of its D channels is one convolution of R itself with the
    kernel Σ_c W1[o, c]·w_r[c].

    Args:
        weights (PositionWeights): Of the layer.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        step (float): Distance between neighbouring tokens.

    Returns:
        Tensor: ``(D, 2H - 1 + 2p, 2W - 1 + 2p)`` float32.
    """
    kernel = weights.conv1_weight.shape[-1]
    distances = offset_distances(hw_shape, step, 2 * (kernel // 2), weights.proj_weight.device)
    # Written as matrix products: float32 convolutions may run in TF32 on CUDA, products don't unless asked to.
    patches = F.unfold(distances[None, None], kernel)[0]
    taps = torch.einsum('ocij,cx->oij', weights.conv1_weight, weights.proj_weight)
    bias = weights.conv1_bias + weights.conv1_weight.sum((2, 3)) @ weights.proj_bias
    hidden = torch.addmm(bias[:, None], taps.flatten(1), patches)
    side = 2 * hw_shape[0] - 1 + 2 * (kernel // 2)
    return hidden.reshape(hidden.shape[0], side, -1)


def first_norm(hidden: Tensor, weights: PositionWeights, hw_shape: tuple[int, int],
               stat_hw: tuple[int, int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """First norm as one factor and one summand for each query.

    Args:
        hidden (Tensor): Offset map, ``(D, 2H - 1 + 2p, 2W - 1 + 2p)``.
        weights (PositionWeights): Of the layer.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        stat_hw (tuple[int, int]): Grid whose keys mean and variance are taken over, at most (H, W).
        eps (float): Added to the variance.

    Returns:
        tuple[Tensor, Tensor, Tensor]: The map with its own mean taken off, and factor and summand, each
        ``(D, H, W)`` by query.
    """
    kernel = weights.conv1_weight.shape[-1]
    margin = kernel // 2
    # Any constant cancels in the norm. Without it the variance below, a difference of squares, keeps its digits.
    hidden = hidden - hidden.mean((1, 2), keepdim=True)
    bands = []
    for size, stat, length in zip(hw_shape, stat_hw, hidden.shape[1:]):
        queries = torch.arange(size, device=hidden.device)
        # Key -margin + start, as an offset from the query, as an index into the map.
        first = window_starts(size, stat, hidden.device) - queries + size - 1
        bands.append(band_average(first, stat + 2 * margin, length))
    rows, cols = bands[0], bands[1].t()
    mean = rows @ hidden @ cols
    variance = (rows @ hidden.square() @ cols - mean.square()).clamp_min(0)
    factor = weights.norm1_weight[:, None, None] * torch.rsqrt(variance + eps)
    return hidden, factor, weights.norm1_bias[:, None, None] - mean * factor


def last_norm(logits: Tensor, weights: PositionWeights, key_weights: Tensor | None,
              eps: float) -> Tensor:
    """Last norm, over the keys of each query and head.

    Args:
        logits (Tensor): ``(Q, nH, N)``.
        weights (PositionWeights): Of the layer.
        key_weights (Tensor, optional): Share of each key in mean and variance, ``(Q, N)`` with rows summing to one.
            None counts all keys alike.
        eps (float): Added to the variance.

    Returns:
        Tensor: ``(Q, nH, N)``.
    """
    if key_weights is None:
        variance, mean = torch.var_mean(logits, dim=-1, correction=0, keepdim=True)
    else:
        share = key_weights[:, None]
        mean = (logits * share).sum(-1, keepdim=True)
        variance = ((logits - mean).square() * share).sum(-1, keepdim=True)
    factor = weights.norm2_weight[:, None] * torch.rsqrt(variance + eps)
    return (logits - mean) * factor + weights.norm2_bias[:, None]


def _logits_of_queries(windows: Tensor, factor: Tensor | None, summand: Tensor | None,
                       weights: PositionWeights, key_weights: Tensor | None, eps: float) -> Tensor:
    """Logits of some queries: ``windows`` (D, Q1, Q2, H + 2p, W + 2p) → (Q1 * Q2, nH, N)."""
    if factor is None:
        hidden = windows.relu()
    else:
        hidden = torch.addcmul(summand[..., None, None], windows, factor[..., None, None]).relu_()
    hidden = hidden.flatten(1, 2).transpose(0, 1)
    logits = F.conv2d(hidden, weights.conv2_weight, weights.conv2_bias).flatten(2)
    if weights.norm2_weight is not None:
        logits = last_norm(logits, weights, key_weights, eps)
    return logits


def position_logits(weights: PositionWeights, hw_shape: tuple[int, int], step: float,
                    stat_hw: tuple[int, int] | None = None, eps: float = 1e-5,
                    slice_bytes: int | None = None) -> Tensor:
    """Position logits, whose sigmoid is Φp (paper: peripheral projections).

    Args:
        weights (PositionWeights): Of the layer, float32.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
        step (float): Distance between neighbouring tokens.
        stat_hw (tuple[int, int], optional): Both norms take mean and variance over a window of this many keys around
            the query, clamped to the grid, instead of over all keys. Defaults to None, all keys.
        eps (float): Of both norms. Defaults to 1e-5.
        slice_bytes (int, optional): Hidden values that a slice of queries may hold, in bytes; slices are recomputed
            in backward. Defaults to None, which is :data:`SLICE_BYTES`.

    Returns:
        Tensor: ``(nH, N, N)`` float32, rows queries.
    """
    h, w = hw_shape
    stat_hw = hw_shape if stat_hw is None else (min(stat_hw[0], h), min(stat_hw[1], w))
    hidden = hidden_offset_map(weights, hw_shape, step)
    factor = summand = bands = None
    if weights.norm1_weight is not None:
        hidden, factor, summand = first_norm(hidden, weights, hw_shape, stat_hw, eps)
        factor, summand = factor.flip(1, 2), summand.flip(1, 2)  # the windows below run backwards
    if weights.norm2_weight is not None and tuple(stat_hw) != tuple(hw_shape):
        bands = [
            band_average(window_starts(size, stat, hidden.device), stat, size).flip(0)
            for size, stat in zip(hw_shape, stat_hw)]

    margin = weights.conv1_weight.shape[-1] // 2
    windows = expand_offsets(hidden, hw_shape, margin)
    row_bytes = windows[:, 0].numel() * windows.element_size()
    rows_each = max(1, min(h, (SLICE_BYTES if slice_bytes is None else slice_bytes) // row_bytes))
    starts = range(0, h, rows_each)
    recompute = len(starts) > 1 and torch.is_grad_enabled()
    parts = []
    for start in starts:
        cut = slice(start, start + rows_each)
        key_weights = None
        if bands is not None:
            key_weights = torch.einsum('ik,jl->ijkl', bands[0][cut], bands[1]).reshape(-1, h * w)
        args = (windows[:, cut], None if factor is None else factor[:, cut],
                None if summand is None else summand[:, cut], weights, key_weights, eps)
        if recompute:
            parts.append(
                checkpoint(_logits_of_queries, *args, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_logits_of_queries(*args))
    logits = parts[0] if len(parts) == 1 else torch.cat(parts)
    # Queries back into reading order, heads first.
    return logits.flip(0).transpose(0, 1).contiguous()
