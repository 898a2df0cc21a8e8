"""How far a block looks."""

import torch
from torch import Tensor

from ..models import PerViT
from ..ops import grid_step, pairwise_distances
from ..utils.errors import UserError


def nonlocality(attention: Tensor, hw_shape: tuple[int, int], step: float) -> Tensor:
    """Mean over queries and keys of distance times attention: the paper's measure, larger for more global attention.

    Args:
        attention (Tensor): ``(..., N, N)``, rows queries.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
        step (float): Distance between neighboring tokens, see :func:`pervit_mm.ops.grid_step`. 1 measures in tokens.

    Returns:
        Tensor: ``(...)``, one value for each map.
    """
    distances = pairwise_distances(hw_shape, step, attention.device)
    return (distances * attention).mean(dim=(-2, -1))


@torch.no_grad()
def position_nonlocality(backbone: PerViT) -> list[Tensor]:
    """Nonlocality of each block's Φp, on the pretraining grid or the block's window.

    Args:
        backbone (PerViT): With a ``position_cfg``.

    Returns:
        list[Tensor]: ``(nH,)`` for each block.

    Raises:
        UserError: If the backbone has no Φp.
    """
    grids = backbone.position_grids(backbone.patch_resolution)
    log_positions = list(backbone.position_terms(backbone.patch_resolution))
    if any(log_position is None for log_position in log_positions):
        raise UserError('this PerViT has no Φp (position_cfg=None), so its nonlocality is not defined; remove the '
                        'hook or analysis that asks for it')
    return [
        nonlocality(log_position.exp(), grid, grid_step(grid, backbone.patch_resolution))
        for log_position, grid in zip(log_positions, grids)
    ]
