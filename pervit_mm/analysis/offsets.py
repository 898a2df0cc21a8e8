"""Heads that look to one side: attention averaged by offset from the query."""
import torch
from torch import Tensor

from ..utils.errors import UserError
from .attention import check_map, normalize_attention

#: Rule of :func:`offset_heads`, **ours**: least weight at the peak, longest offset in tokens, least asymmetry.
LEAST_WEIGHT, LONGEST, LEAST_ASYMMETRY = 0.1, 2 * 2**0.5, 0.5


def coverage(hw_shape: tuple[int, int]) -> Tensor:
    """How many queries have a key at each offset, ``(2H - 1, 2W - 1)``: (H - |dy|)(W - |dx|)."""
    rows, cols = (side - torch.arange(1 - side, side).abs() for side in hw_shape)
    return rows[:, None] * cols[None, :]


def aligned_map(attention: Tensor, hw_shape: tuple[int, int], corrected: bool = True) -> Tensor:
    """Average a map over queries, each row shifted so that its query is the center.

    Uncorrected, the map of a uniform head peaks at the center, because fewer queries have a key at a far offset. The
    correction divides by that number. Source: Walmer et al. 2023, average aligned attention maps; the correction is
    **ours**.

    Args:
        attention (Tensor): ``(..., N, N)``, rows queries, at least 0. Rows are made to sum to one.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        corrected (bool): Whether to average over the queries that have a key at the offset. False averages over all N.
            Defaults to True.

    Returns:
        Tensor: ``(..., 2H - 1, 2W - 1)``; the offset (dy, dx) from query to key is at [H - 1 + dy, W - 1 + dx].

    Raises:
        UserError: If shapes disagree.
    """
    check_map(attention, hw_shape)
    rows, (h, w) = normalize_attention(attention), hw_shape
    y, x = (place.flatten() for place in torch.meshgrid(
        torch.arange(h, device=rows.device), torch.arange(w, device=rows.device), indexing='ij'))
    offsets = (y[None] - y[:, None] + h - 1) * (2 * w - 1) + (x[None] - x[:, None] + w - 1)
    sums = rows.new_zeros(*rows.shape[:-2], (2 * h - 1) * (2 * w - 1))
    sums = sums.index_add(-1, offsets.flatten(), rows.flatten(-2)).unflatten(-1, (2 * h - 1, 2 * w - 1))
    return sums / (coverage(hw_shape).to(sums) if corrected else h * w)


def offset_heads(attention: Tensor, hw_shape: tuple[int, int]) -> list[tuple[int, tuple[int, int], float]]:
    """Find heads that look at a near neighbor on one side.

    A head is one if the largest value of its corrected aligned map, within :data:`LONGEST` tokens, is not at the query,
    is at least :data:`LEAST_WEIGHT`, and has at least :data:`LEAST_ASYMMETRY` = (m(o) - m(-o)) / (m(o) + m(-o)). Φp
    alone is enough for this, without an image. Source: Walmer et al. 2023 choose such heads by eye; the rule is
    **ours**.

    Args:
        attention (Tensor): ``(nH, N, N)``, or ``(B, nH, N, N)``, which is averaged over images.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.

    Returns:
        list[tuple[int, tuple[int, int], float]]: (head, (dy, dx), weight) of each such head; dy is positive downward.

    Raises:
        UserError: If shapes disagree.
    """
    if attention.dim() not in (3, 4):
        raise UserError(f'attention must be (nH, N, N) or (B, nH, N, N), got {tuple(attention.shape)}')
    maps = aligned_map(attention, hw_shape)
    return offsets_of_maps(maps.mean(dim=0) if maps.dim() == 4 else maps)


def offsets_of_maps(maps: Tensor) -> list[tuple[int, tuple[int, int], float]]:
    """:func:`offset_heads` from corrected aligned maps ``(nH, 2H - 1, 2W - 1)`` that are there already."""
    h, w = ((side + 1) // 2 for side in maps.shape[1:])
    dy, dx = torch.arange(1 - h, h, device=maps.device), torch.arange(1 - w, w, device=maps.device)
    far = torch.hypot(dy[:, None].float(), dx[None, :].float()) > LONGEST + 1e-4
    found = []
    for head, (near, whole) in enumerate(zip(maps.masked_fill(far, -1), maps)):
        row, col = divmod(int(near.argmax()), 2 * w - 1)
        weight, opposite = whole[row, col].item(), whole[2 * h - 2 - row, 2 * w - 2 - col].item()
        offset = (row - h + 1, col - w + 1)
        if offset != (0, 0) and weight >= LEAST_WEIGHT and weight - opposite >= LEAST_ASYMMETRY * (weight + opposite):
            found.append((head, offset, weight))
    return found
