"""Windows of tokens without padding.

A map that the window does not divide leaves a strip at its right and bottom edge. The usual way pads the strip to whole
windows, masks the padded keys, and throws the padded queries away. Masked keys have weight zero, so leaving out the
padding gives exactly the same and costs less. Then a map falls into at most four groups of equal windows: whole ones,
the right strip, the bottom strip and the corner.
"""
from collections.abc import Callable

import torch
from torch import Tensor


def split_axis(size: int, window: int) -> list[tuple[int, int, int]]:
    """Runs of equal windows along one axis.

    Args:
        size (int): Tokens along the axis.
        window (int): Window side in tokens.

    Returns:
        list[tuple[int, int, int]]: ``(start, stop, side)`` of the whole windows, then of the remainder; either may be
        missing.
    """
    whole = size // window * window
    runs = [(0, whole, window)] if whole else []
    if whole < size:
        runs.append((whole, size, size - whole))
    return runs


def partition(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut a map into windows.

    Args:
        x (Tensor): ``(B, H, W, C)``, H and W multiples of the window's sides.
        window (tuple[int, int]): Sides (h, w) in tokens.

    Returns:
        Tensor: ``(B * H/h * W/w, h * w, C)``.
    """
    b, height, width, c = x.shape
    h, w = window
    x = x.reshape(b, height // h, h, width // w, w, c).transpose(2, 3)
    return x.reshape(-1, h * w, c)


def unpartition(x: Tensor, window: tuple[int, int], hw_shape: tuple[int, int]) -> Tensor:
    """Inverse of :func:`partition`.

    Args:
        x (Tensor): ``(B * H/h * W/w, h * w, C)``.
        window (tuple[int, int]): Sides (h, w) in tokens.
        hw_shape (tuple[int, int]): Map (H, W) in tokens.

    Returns:
        Tensor: ``(B, H, W, C)``.
    """
    height, width = hw_shape
    h, w = window
    x = x.reshape(-1, height // h, width // w, h, w, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, height, width, x.shape[-1])


def crop_position(log_position: Tensor, window: tuple[int, int], part: tuple[int, int]) -> Tensor:
    """log Φp of the tokens that a border window really has.

    Args:
        log_position (Tensor): Of a whole window, ``(nH, h * w, h * w)``.
        window (tuple[int, int]): Sides (h, w) of a whole window.
        part (tuple[int, int]): Sides of the border window, at most (h, w).

    Returns:
        Tensor: ``(nH, part[0] * part[1], part[0] * part[1])``.
    """
    if part == window:
        return log_position
    h, w = part
    full = log_position.reshape(-1, *window, *window)
    return full[:, :h, :w, :h, :w].reshape(-1, h * w, h * w)


def attend_in_windows(x: Tensor, hw_shape: tuple[int, int], window: tuple[int, int],
                      log_position: Tensor | None,
                      attend: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
    """Apply an attention within non-overlapping windows.

    Args:
        x (Tensor): ``(B, N, C)``.
        hw_shape (tuple[int, int]): Map (H, W) in tokens, N = H * W.
        window (tuple[int, int]): Window sides (h, w) in tokens.
        log_position (Tensor, optional): log Φp of a whole window, ``(nH, h * w, h * w)``.
        attend (Callable): Takes tokens ``(B', N', C)`` and their log Φp, returns ``(B', N', C')``.

    Returns:
        Tensor: ``(B, N, C')``.
    """
    if any(isinstance(side, torch.SymInt) for side in hw_shape):
        return attend_in_padded_windows(x, hw_shape, window, log_position, attend)
    x = x.reshape(x.shape[0], *hw_shape, x.shape[-1])
    strips = []
    for top, bottom, h in split_axis(hw_shape[0], window[0]):
        groups = []
        for left, right, w in split_axis(hw_shape[1], window[1]):
            part = (h, w)
            position = None if log_position is None else crop_position(log_position, window, part)
            out = attend(partition(x[:, top:bottom, left:right], part), position)
            groups.append(unpartition(out, part, (bottom - top, right - left)))
        strips.append(groups[0] if len(groups) == 1 else torch.cat(groups, dim=2))
    out = strips[0] if len(strips) == 1 else torch.cat(strips, dim=1)
    return out.flatten(1, 2)


def attend_in_padded_windows(x: Tensor, hw_shape: tuple[int, int], window: tuple[int, int],
                             log_position: Tensor | None,
                             attend: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """:func:`attend_in_windows` with whole windows alone, for a map of open size.

    In ``torch.export`` the sides of such a map are symbols, and it isn't known which strips it has. So it is padded
    with zeros to whole windows, and the padding is masked as keys.

    Args:
        x, hw_shape, window, log_position, attend: As there. ``attend`` gets log Φp ``(B', nH, N', N')``, without
            Φp ``(B', 1, 1, N')``.

    Returns:
        Tensor: ``(B, N, C')``, the same up to rounding.
    """
    size, (b, _, c) = window[0] * window[1], x.shape
    rows, cols = ((length + side - 1) // side for length, side in zip(hw_shape, window))
    number, place = place_in_windows(hw_shape, window, x.device)
    slot = number * size + place  # of each token among those of all windows
    # One window more, which stays empty, because a single window would be a case of its own for torch.export.
    slots = (rows * cols + 1) * size
    windows = x.new_zeros(b, slots, c).index_copy(1, slot, x).reshape(-1, size, c)
    # Not minus infinity, because the empty window would become NaN.
    mask = x.new_full((slots, ), torch.finfo(x.dtype).min).index_copy(0, slot, x.new_zeros(slot.shape))
    mask = mask.reshape(-1, 1, 1, size)
    mask = (mask if log_position is None else mask + log_position).repeat(b, 1, 1, 1)
    out = attend(windows, mask)
    return out.reshape(b, -1, out.shape[-1]).index_select(1, slot)


def place_in_windows(hw_shape: tuple[int, int], window: tuple[int, int],
                     device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Where each token is.

    Args:
        hw_shape (tuple[int, int]): Map (H, W) in tokens, N = H * W.
        window (tuple[int, int]): Window sides (h, w) in tokens.
        device (torch.device, optional): Where the result is made.

    Returns:
        tuple[Tensor, Tensor]: Number of its window, and its number in a whole window, each ``(N,)`` integer.
    """
    h, w = window
    rows, cols = (torch.arange(size, device=device) for size in hw_shape)
    number = (rows // h)[:, None] * ((hw_shape[1] + w - 1) // w) + cols // w
    place = (rows % h)[:, None] * w + cols % w
    return number.flatten(), place.flatten()


def spread_windows(log_position: Tensor | None, hw_shape: tuple[int, int], window: tuple[int, int],
                   device: torch.device) -> Tensor:
    """log Φp of all windows as one map over the whole grid, for analysis.

    With it, attention over the whole map equals :func:`attend_in_windows`.

    Args:
        log_position (Tensor, optional): log Φp of a whole window, ``(nH, h * w, h * w)``. None stands for Φp = 1.
        hw_shape (tuple[int, int]): Map (H, W) in tokens, N = H * W.
        window (tuple[int, int]): Window sides (h, w) in tokens.
        device (torch.device): Where the result is made.

    Returns:
        Tensor: ``(nH, N, N)``, or ``(1, N, N)`` without Φp; minus infinity between tokens of different windows.
    """
    number, place = place_in_windows(hw_shape, window, device)
    if log_position is None:
        spread = torch.zeros(1, len(number), len(number), device=device)
    else:
        spread = log_position[:, place][:, :, place]
    return spread.masked_fill(number[:, None] != number, float('-inf'))
