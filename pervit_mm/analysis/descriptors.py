"""Dense descriptors: one vector for each token, to find the same thing in other images."""
import torch
from torch import Tensor
from torch.nn import functional as F

from ..utils.errors import UserError
from .capture import BlockRecord

#: What of a block describes a token, and the option of :func:`pervit_mm.analysis.capture` that records it.
FACETS = dict(query='qkv', key='qkv', value='qkv', token='features')
#: Steps (rows, columns) to the eight neighbors, row by row.
_DIRECTIONS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))


def check_facet(facet: str) -> None:
    """Raise UserError unless the facet is one of :data:`FACETS`."""
    if facet not in FACETS:
        raise UserError(f'facet must be one of {tuple(FACETS)}, got {facet!r}')


def dense_descriptors(block: BlockRecord, facet: str = 'key') -> Tensor:
    """Descriptors of the tokens of a recorded block.

    Source: Amir et al. 2021, "Deep ViT features as dense visual descriptors".

    Args:
        block (BlockRecord): From :func:`pervit_mm.analysis.capture`, recorded with the option that :data:`FACETS` names
            for the facet.
        facet (str): 'query', 'key' or 'value', whose heads are put one after the other, or 'token', the output of the
            block. Defaults to 'key'.

    Returns:
        Tensor: ``(B, H, W, C)``, float32 or wider.

    Raises:
        UserError: If the facet is unknown or was not recorded.
    """
    check_facet(facet)
    found = block.output if facet == 'token' else getattr(block, facet)
    if found is None:
        raise UserError(f'facet={facet!r} was not recorded of block {block.index}: call capture with '
                        f"{FACETS[facet]}=True, and take 'value' or 'token' if the block attends without content")
    if facet != 'token':
        found = found.transpose(1, 2).flatten(2)  # (B, nH, N, d) → (B, N, nH * d)
    return found.to(torch.promote_types(found.dtype, torch.float32)).unflatten(1, block.hw_shape)


def log_bins(descriptors: Tensor, levels: int = 2) -> Tensor:
    """Add to each descriptor those of its surroundings, coarser with the distance.

    Level l looks 3^l tokens away in eight directions, at the mean over a square of 3^l x 3^l tokens. So level 0 is the
    eight neighbors. A mean counts only tokens of the grid, and a place outside the grid is moved to the border.
    Source: Amir et al. 2021, "Log-binning". Their own order of the parts differs.

    Args:
        descriptors (Tensor): ``(B, H, W, C)``.
        levels (int): At least 1. Defaults to 2.

    Returns:
        Tensor: ``(B, H, W, (1 + 8 * levels) * C)``, float32 or wider: the token's own descriptor, then level by level,
        each row by row from top left to bottom right.

    Raises:
        UserError: If ``levels`` is no number of at least 1, or ``descriptors`` is no map.
    """
    if type(levels) is not int or levels < 1:
        raise UserError(f'levels must be a number of at least 1, got {levels!r}')
    if descriptors.dim() != 4:
        raise UserError(f'descriptors must be (B, H, W, C), got {tuple(descriptors.shape)}')
    own = descriptors.to(torch.promote_types(descriptors.dtype, torch.float32)).permute(0, 3, 1, 2)
    h, w = own.shape[2:]
    rows, cols = torch.arange(h, device=own.device), torch.arange(w, device=own.device)
    parts = [own]
    for level in range(levels):
        size = 3**level
        pooled = F.avg_pool2d(own, size, stride=1, padding=size // 2, count_include_pad=False)
        for dy, dx in _DIRECTIONS:
            there = (rows + dy * size).clamp(0, h - 1)
            parts.append(pooled[:, :, there][..., (cols + dx * size).clamp(0, w - 1)])
    return torch.cat(parts, dim=1).permute(0, 2, 3, 1)


def saliency(attention: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """How much the tokens of an image look at each token, scaled to [0, 1] in each image.

    **Ours** in this form: Amir et al. 2021 take the row of the class token, which PerViT doesn't have. The mean over
    all queries stands in for it.

    Args:
        attention (Tensor): Φa ``(B, nH, N, N)``, rows queries.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.

    Returns:
        Tensor: ``(B, H, W)``, from 0 for the least to 1 for the most seen token; all 0 if all are seen alike.
    """
    wide = torch.promote_types(attention.dtype, torch.float32)
    seen = attention.double().mean(dim=(1, 2))  # (B, N)
    low, high = seen.amin(dim=1, keepdim=True), seen.amax(dim=1, keepdim=True)
    # What float32 leaves of a flat map is no difference.
    spread = torch.where(high - low > 1e-5 * high, high - low, torch.inf)
    return ((seen - low) / spread).to(wide).unflatten(1, hw_shape)
