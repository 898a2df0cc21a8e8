"""Some tokens of each image: taken out of the grid, put back, and log Φp between them.

``gather`` and ``scatter`` would do the same. On the CPU, the index operations on rows take a third of their time or
less, backward included.
"""

import torch
from torch import Tensor


def take_tokens(x: Tensor, kept: Tensor) -> Tensor:
    """Some tokens of each image.

    Args:
        x (Tensor): ``(B, N, C)``.
        kept (Tensor): Their numbers, ``(B, n)`` int64 in [0, N).

    Returns:
        Tensor: ``(B, n, C)``, in the order of ``kept``.
    """
    return x.flatten(0, 1).index_select(0, _rows(kept, x.shape[1])).view(*kept.shape, x.shape[2])


def place_tokens(x: Tensor, kept: Tensor, number: int) -> Tensor:
    """Put tokens back to their places, with zeros between them; the transpose of :func:`take_tokens`.

    Args:
        x (Tensor): ``(B, n, C)``.
        kept (Tensor): Their numbers, ``(B, n)`` int64 in [0, N), each at most once in an image.
        number (int): N.

    Returns:
        Tensor: ``(B, N, C)``.
    """
    b, _, c = x.shape
    return x.new_zeros(b * number, c).index_copy(0, _rows(kept, number), x.flatten(0, 1)).view(b, number, c)


def take_pairs(log_position: Tensor, kept: Tensor) -> Tensor:
    """log Φp between some tokens of each image: rows and columns of the grid's.

    Args:
        log_position (Tensor): Of the whole grid, ``(nH, N, N)``.
        kept (Tensor): Numbers of the tokens, ``(B, n)`` int64 in [0, N).

    Returns:
        Tensor: ``(B, nH, n, n)``.
    """
    (heads, number, _), (b, n) = log_position.shape, kept.shape
    pairs = kept[:, :, None] * number + kept[:, None, :]
    return log_position.flatten(1).index_select(1, pairs.flatten()).view(heads, b, n, n).transpose(0, 1)


def _rows(kept: Tensor, number: int) -> Tensor:
    """Numbers of the tokens ``(B, n)`` among those of all B images, ``(B * n,)``."""
    return (kept + number * torch.arange(len(kept), device=kept.device)[:, None]).flatten()
