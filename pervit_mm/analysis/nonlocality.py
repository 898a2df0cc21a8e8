"""How far a block looks."""

import torch
from torch import Tensor

from ..models import PerViT
from ..ops import grid_step, pairwise_distances


def nonlocality(attention: Tensor, hw_shape: tuple[int, int], step: float) -> Tensor:
    """Mean over queries and keys of distance times attention, the paper's measure: the larger, the more global.

    Args:
        attention (Tensor): ``(..., N, N)``, rows queries.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
        step (float): Distance between neighbouring tokens, see :func:`pervit_mm.ops.grid_step`; 1 gives tokens.

    Returns:
        Tensor: ``(...)``, one value for each map.
    """
    distances = pairwise_distances(hw_shape, step, attention.device)
    return (distances * attention).mean(dim=(-2, -1))


@torch.no_grad()
def position_nonlocality(backbone: PerViT) -> list[Tensor]:
    """Nonlocality of Φp on each block's pretraining grid (or window).

    Args:
        backbone (PerViT): With a ``position_cfg``.

    Returns:
        list[Tensor]: ``(nH,)`` for each block.

    Raises:
        ValueError: If the backbone has no Φp.
    """
    grids = backbone.position_grids(backbone.patch_resolution)
    terms = backbone.log_positions(backbone.patch_resolution)
    if any(term is None for term in terms):
        raise ValueError('this PerViT has no Φp (position_cfg=None), so its nonlocality is not defined; remove the '
                         'hook or analysis that asks for it')
    return [
        nonlocality(term.exp(), grid, grid_step(grid, backbone.patch_resolution))
        for term, grid in zip(terms, grids)
    ]
