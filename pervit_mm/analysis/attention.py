"""How far, and where, attention looks: pure functions of attention maps."""
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from ..ops import grid_step, pairwise_distances
from ..utils.errors import UserError

#: Default ring edges in tokens, on a grid of 14 x 14. **Ours**: the paper does not state its own.
RING_EDGES = (1.5, 3.5, 6.5)
UNITS = ('token', 'unit', 'pixel')


def check_map(attention: Tensor, hw_shape: tuple[int, int], num_extra_tokens: int = 0) -> None:
    """Raise UserError unless the last two axes of ``attention`` have one place for each token.

    Args:
        attention (Tensor): ``(..., N, N)``.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        num_extra_tokens (int): Class tokens that come ahead of those of the grid. Defaults to 0.

    Raises:
        UserError: If the shapes disagree.
    """
    n = hw_shape[0] * hw_shape[1] + num_extra_tokens
    if attention.dim() < 2 or tuple(attention.shape[-2:]) != (n, n):
        raise UserError(f'attention must be (..., {n}, {n}) for hw_shape={tuple(hw_shape)} and num_extra_tokens='
                        f'{num_extra_tokens}, got {tuple(attention.shape)}: give the grid that the map was made on')


def normalize_attention(attention: Tensor, num_extra_tokens: int = 0) -> Tensor:
    """Drop extra tokens, and make rows sum to one again.

    Without the second step, a head that looks at the class token would seem to look nowhere.

    Args:
        attention (Tensor): ``(..., N', N')``, rows queries, at least 0. Extra tokens come first.
        num_extra_tokens (int): Class and distillation tokens. Defaults to 0.

    Returns:
        Tensor: ``(..., N, N)``, float32 or wider. A row without any mass becomes uniform.
    """
    wide = attention[..., num_extra_tokens:, num_extra_tokens:].to(
        torch.promote_types(attention.dtype, torch.float32))
    mass = wide.sum(dim=-1, keepdim=True)
    # Only 0 is without mass: NaN stays NaN, so that a diverged model doesn't look healthy.
    return torch.where(mass == 0, 1. / wide.shape[-1], wide / mass.where(mass != 0, torch.ones_like(mass)))


def unit_step(hw_shape: tuple[int, int], unit: str, stride: float | None) -> float:
    """Distance between neighboring tokens in a unit.

    Args:
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        unit (str): 'token': 1. 'unit': the longer side of the grid, from first to last token, is 1. 'pixel':
            ``stride``.
        stride (float, optional): Pixels for each token; 'pixel' needs it.

    Returns:
        float: The distance.

    Raises:
        UserError: If the unit is unknown, or is 'pixel' and there is no stride.
    """
    if unit not in UNITS:
        raise UserError(f'unit must be one of {UNITS}, got {unit!r}')
    if unit == 'pixel':
        if stride is None:
            raise UserError("unit='pixel' needs the stride, in pixels for each token, got None: give stride, such as "
                            'out_stride of the backbone')
        return float(stride)
    return 1. if unit == 'token' else grid_step(hw_shape) / 2


def attention_distance(attention: Tensor, hw_shape: tuple[int, int], unit: str = 'token', stride: float | None = None,
                       num_extra_tokens: int = 0) -> Tensor:
    """Mean distance that attention reaches over: the mean over queries of the sum over keys of weight times distance.

    Extra tokens are dropped, and rows made to sum to one, so Φp, Φc and Φa can be compared. Source: d'Ascoli et al.
    2021 (ConViT), "nonlocality"; Dosovitskiy et al. 2021, figure 7.

    Args:
        attention (Tensor): ``(..., N', N')``, rows queries, at least 0.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        unit (str): 'token', 'unit' (the longer side of the grid is 1) or 'pixel'. Defaults to 'token'.
        stride (float, optional): Pixels for each token, for ``unit='pixel'``. Defaults to None.
        num_extra_tokens (int): Class tokens, which come first. Defaults to 0.

    Returns:
        Tensor: ``(...)``, the mean over queries.

    Raises:
        UserError: If shapes disagree, the unit is unknown, or a stride is missing.
    """
    check_map(attention, hw_shape, num_extra_tokens)
    rows = normalize_attention(attention, num_extra_tokens)
    distances = pairwise_distances(hw_shape, unit_step(hw_shape, unit, stride), rows.device).to(rows.dtype)
    return (rows * distances).sum(dim=-1).mean(dim=-1)


def uniform_attention(hw_shape: tuple[int, int], window_ids: Tensor | None = None) -> Tensor:
    """Attention that weighs all tokens of its window alike, ``(N, N)`` float64: the reference of many figures.

    Args:
        hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
        window_ids (Tensor, optional): Number of the window of each token, ``(N,)``. Defaults to None, one window.

    Returns:
        Tensor: ``(N, N)``, rows sum to one.
    """
    n = hw_shape[0] * hw_shape[1]
    if window_ids is None:
        return torch.full((n, n), 1 / n, dtype=torch.float64)
    return normalize_attention((window_ids[:, None] == window_ids).double())


def uniform_distance(hw_shape: tuple[int, int], unit: str = 'token', stride: float | None = None) -> float:
    """:func:`attention_distance` of :func:`uniform_attention` without windows."""
    return attention_distance(uniform_attention(hw_shape), hw_shape, unit, stride).item()


def attention_entropy(attention: Tensor, hw_shape: tuple[int, int], num_extra_tokens: int = 0) -> Tensor:
    """Mean entropy of rows, in nats; log N for uniform attention, 0 for attention to one token.

    Args:
        attention (Tensor): ``(..., N', N')``, rows queries, at least 0.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        num_extra_tokens (int): Class tokens, which come first. Defaults to 0.

    Returns:
        Tensor: ``(...)``, the mean over queries.

    Raises:
        UserError: If shapes disagree.
    """
    check_map(attention, hw_shape, num_extra_tokens)
    rows = normalize_attention(attention, num_extra_tokens)
    return -torch.xlogy(rows, rows).sum(dim=-1).mean(dim=-1)


def ring_edges(hw_shape: tuple[int, int]) -> tuple[float, ...]:
    """:data:`RING_EDGES` scaled from 14 tokens to the height of a grid, in tokens. **Ours**."""
    return tuple(edge * hw_shape[0] / 14 for edge in RING_EDGES)


def ring_shares(attention: Tensor, hw_shape: tuple[int, int], edges: Sequence[float]) -> Tensor:
    """Share of the attention in each ring around the query: how the paper's picture of peripheral vision is counted.

    The rule is **ours**, because the paper does not state one. A border query has fewer keys in its outer rings, so the
    shares of uniform attention belong beside these.

    Args:
        attention (Tensor): ``(..., N, N)``, rows queries, at least 0. Rows are made to sum to one.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        edges (Sequence[float]): Rising distances in tokens. k edges make k + 1 rings. A token on an edge counts to the
            inner ring.

    Returns:
        Tensor: ``(..., rings)``, the mean over queries; sums to 1.

    Raises:
        UserError: If shapes disagree, there is no edge, or the edges don't rise from above 0.
    """
    check_map(attention, hw_shape)
    edges = check_edges(edges)
    distances = pairwise_distances(hw_shape, 1., attention.device)
    rings = torch.bucketize(distances, torch.tensor(edges, device=attention.device)).flatten()
    rows = normalize_attention(attention)
    inside = torch.nn.functional.one_hot(rings, len(edges) + 1).to(rows.dtype)  # (N * N, rings)
    return rows.flatten(-2) @ inside / rows.shape[-1]


def check_edges(edges: Sequence[float]) -> tuple[float, ...]:
    """Return edges of rings as a tuple if they rise from above 0, or raise UserError."""
    if (not isinstance(edges, (tuple, list)) or not edges or not all(isinstance(e, Real) for e in edges)
            or not all(a < b for a, b in zip((0, *edges), edges))):
        shown = tuple(edges) if isinstance(edges, list) else edges
        raise UserError(f'edges must be distances in tokens that rise from above 0, got {shown!r}')
    return tuple(map(float, edges))


def ring_of_heads(shares: Tensor, uniform: Tensor) -> Tensor:
    """Ring that holds the median distance of each head's attention. **Ours**.

    Args:
        shares (Tensor): ``(..., rings)`` of :func:`ring_shares`.
        uniform (Tensor): ``(rings,)`` of :func:`uniform_shares` with the same grid and edges.

    Returns:
        Tensor: ``(...)`` integer, 0 for the central ring; -1 for a flat head. A head is flat if its shares differ from
        those of uniform attention by less than 0.02 in every ring: then the ring says nothing about it.
    """
    ring = (shares.cumsum(dim=-1) < 0.5).sum(dim=-1)
    flat = (shares - uniform.to(shares)).abs().amax(dim=-1) < 0.02
    return ring.masked_fill(flat, -1)


def uniform_shares(hw_shape: tuple[int, int], edges: Sequence[float]) -> Tensor:
    """:func:`ring_shares` of :func:`uniform_attention` without windows, ``(rings,)``."""
    return ring_shares(uniform_attention(hw_shape), hw_shape, edges)
