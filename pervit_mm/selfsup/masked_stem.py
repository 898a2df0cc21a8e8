"""The stem at the visible tokens alone."""
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..models import ConvStem
from ..models.layers import check_visible
from ..ops import take_tokens


def can_skip_hidden(stem: torch.nn.Module, images: Tensor) -> bool:
    """Whether :func:`embed_visible` does for a stem and images ``(B, C, h, w)``.

    It needs a convolutional stem with BatchNorm, or in the deployed form, and images of whole tokens.
    """
    return (isinstance(stem, ConvStem) and not any(side % stem.out_stride for side in images.shape[2:])
            and all(isinstance(layer.norm, (_BatchNorm, torch.nn.Identity)) for layer in stem.layers))


def embed_visible(stem: ConvStem, images: Tensor, kept: Tensor) -> Tensor:
    """Tokens that a masked stem gives where nothing is hidden, without computing the hidden ones.

    A convolution of stride 2 sees one row and one column beyond a token, to its top and its left. So each visible token
    goes through the stem as a small map of its own, which gets this border from its neighbors ahead of each layer. The
    border is zero where the neighbor is hidden. BatchNorm then sees visible positions only.

    Args:
        stem (ConvStem): Of out_stride s. See :func:`can_skip_hidden`.
        images (Tensor): ``(B, in_channels, H * s, W * s)``.
        kept (Tensor): Numbers of the visible tokens in the grid (H, W), ``(B, n)`` int64.

    Returns:
        Tensor: ``(B, n, C)``: the visible tokens of ``stem(images, hidden)``.

    Raises:
        UserError: If BatchNorm in training has a single position.
    """
    side, (b, n) = stem.out_stride, kept.shape
    grid = images.shape[2] // side, images.shape[3] // side
    patches = images.unflatten(3, (grid[1], side)).unflatten(2, (grid[0], side)).permute(0, 2, 4, 3, 5, 1)
    x = take_tokens(patches.flatten(3).flatten(1, 2), kept).view(b * n, side, side, -1)
    neighbors = visible_neighbors(kept, grid)
    for layer in stem.layers:
        x = convolve(add_border(x, neighbors), layer.conv.weight, layer.conv.bias)
        check_visible(layer.norm, x.shape[:3].numel())
        x = layer.act(layer.norm(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)  # a map with channels last in memory
    return F.linear(x.flatten(1), stem.proj.weight.flatten(1), stem.proj.bias).view(b, n, -1)


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolution of stride 2 without padding: as one matrix product, which is faster for many small maps.

    Args:
        x (Tensor): ``(T, 2 * s + 1, 2 * s + 1, C)``.
        weight (Tensor): ``(C', C, 3, 3)``.
        bias (Tensor): ``(C',)``.

    Returns:
        Tensor: ``(T, s, s, C')``.
    """
    end = x.shape[1] - 2
    windows = torch.cat([x[:, i:end + i:2, j:end + j:2] for i in range(3) for j in range(3)], dim=3)
    return F.linear(windows, weight.permute(0, 2, 3, 1).flatten(1), bias)


def visible_neighbors(kept: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which visible tokens stand to the upper left, above and to the left of each visible token.

    Args:
        kept (Tensor): Numbers of the visible tokens in the grid, ``(B, n)``.
        grid (tuple[int, int]): (H, W).

    Returns:
        Tensor: ``(3, B * n)`` int64: their places among all visible tokens of the batch, B * n where there is none.
    """
    b, n = kept.shape
    own = torch.arange(b * n, device=kept.device)
    places = torch.full((b, grid[0] * grid[1]), b * n, device=kept.device).scatter_(1, kept, own.view(b, n))
    padded = F.pad(places.view(b, *grid), (1, 0, 1, 0), value=b * n)
    corner, above, left = padded[:, :-1, :-1], padded[:, :-1, 1:], padded[:, 1:, :-1]
    return torch.stack([part.flatten(1).gather(1, kept).flatten() for part in (corner, above, left)])


def add_border(x: Tensor, neighbors: Tensor) -> Tensor:
    """Put the last row above and the last column to the left ahead of each token's map.

    Args:
        x (Tensor): ``(T, s, s, C)`` of T tokens.
        neighbors (Tensor): ``(3, T)`` from :func:`visible_neighbors`.

    Returns:
        Tensor: ``(T, s + 1, s + 1, C)``.
    """
    rows, columns = (F.pad(part, (0, 0, 0, 0, 0, 1)) for part in (x[:, -1], x[:, :, -1]))  # and zeros for none
    corner, above, left = neighbors
    top = torch.cat([rows[:, -1:].index_select(0, corner), rows.index_select(0, above)], dim=1)
    return torch.cat([top[:, None], torch.cat([columns.index_select(0, left)[:, :, None], x], dim=2)], dim=1)
