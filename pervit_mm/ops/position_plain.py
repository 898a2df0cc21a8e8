"""The part of the position network that needs work per query, written out for all queries at once.

:func:`pervit_mm.ops.position_per_query.query_position` computes the same in slices, with a backward of its own. This
form has derivatives of every order and mode. It holds several tensors of D·N·(H + 2)·(W + 2) values for each block. On
CUDA it computes in float64, because there a convolution in float32 and its derivatives run in TF32.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from .distance import expand_offsets


def plain_query_position(hidden: Tensor, factor: Tensor | None, summand: Tensor | None, weight: Tensor, bias: Tensor,
                         gamma: Tensor | None, beta: Tensor | None, rows: Tensor | None, cols: Tensor | None,
                         hw_shape: tuple[int, int], eps: float) -> Tensor:
    """log Φp of all queries from the hidden offset maps, by torch's own operations.

    Args:
        hidden (Tensor): Offset maps of L blocks, ``(L, D, 2H - 1 + 2p, 2W - 1 + 2p)``.
        factor, summand (Tensor, optional): First norm by query, ``(L, D, H, W)``; None leaves it out. Their query axes
            count windows, see :func:`expand_offsets`.
        weight, bias (Tensor): Second convolution, ``(L, nH, D, k, k)`` and ``(L, nH)``.
        gamma, beta (Tensor, optional): Last norm, ``(L, nH)``; None leaves it out.
        rows, cols (Tensor, optional): Share of each key in the last norm along the axes, ``(H, H)`` and ``(W, W)``,
            queries first; None counts all keys alike.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        eps (float): Of the last norm.

    Returns:
        Tensor: ``(L, nH, H, W, H, W)``, queries first.
    """
    blocks, heads, _, kernel, _ = weight.shape
    h, w = hw_shape
    dtype = hidden.dtype
    if hidden.is_cuda:
        hidden, weight, bias, rows, cols = (t if t is None else t.double() for t in (hidden, weight, bias, rows, cols))
    x = expand_offsets(hidden, hw_shape, kernel // 2)
    if factor is not None:
        x = x * factor[..., None, None] + summand[..., None, None]
    # (L, D, H, W, keys) → (H·W, L·D, keys): queries are the batch, blocks the groups.
    x = x.relu().flatten(2, 3).movedim(2, 0).flatten(1, 2)
    logits = F.conv2d(x, weight.flatten(0, 1), bias.flatten(), groups=blocks)
    logits = logits.reshape(h, w, blocks, heads, h, w).permute(2, 3, 0, 1, 4, 5).flip(2, 3)
    if gamma is not None:
        share = 1 / (h * w) if rows is None else torch.einsum('ik,jl->ijkl', rows, cols)
        logits = logits - (logits * share).sum((-2, -1), keepdim=True)
        variance = (logits.square() * share).sum((-2, -1), keepdim=True)
        gamma, beta = (t[..., None, None, None, None] for t in (gamma, beta))
        logits = logits * torch.rsqrt(variance + eps) * gamma + beta
    return F.logsigmoid(logits).to(dtype)
