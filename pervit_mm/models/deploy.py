"""Φp frozen into buffers: what deployment leaves of the position network."""
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .arch import to_pair
from .position import DistanceProjection

if TYPE_CHECKING:
    from .pervit import PerViT


class FrozenPosition(nn.Module):
    """log Φp of named grids as buffers: what deployment leaves of a position module.

    Args:
        terms (dict[tuple[int, int], Tensor]): log Φp ``(nH, N, N)`` by grid (H, W).
    """

    def __init__(self, terms: dict[tuple[int, int], Tensor]) -> None:
        super().__init__()
        for (h, w), term in terms.items():
            # No copy: what is frozen was made for this, and may be gigabytes.
            self.register_buffer(f'grid_{h}x{w}', term.detach())

    def forward(self, hw_shape: tuple[int, int], projection: DistanceProjection | None = None) -> Tensor:
        """Look log Φp of a grid up.

        Raises:
            ValueError: If the grid was not frozen.
        """
        name = f'grid_{hw_shape[0]}x{hw_shape[1]}'
        if name not in self._buffers:
            have = ', '.join(key.removeprefix('grid_') for key in self._buffers)
            raise ValueError(
                f'this PerViT was deployed for the token grids {have} and got {hw_shape[0]}x{hw_shape[1]}; '
                'call switch_to_deploy(hw_shapes=[...]) on the trained model with every grid you need')
        return self._buffers[name]


@torch.no_grad()
def freeze_positions(model: 'PerViT', hw_shapes: Sequence[tuple[int, int]] | None = None) -> None:
    """Put frozen positions in place of a PerViT's position modules and fold its stem; see ``switch_to_deploy``.

    Args:
        model (PerViT): Changed in place; one that is frozen already stays as it is.
        hw_shapes (Sequence[tuple[int, int]], optional): Token grids (H, W). Defaults to None, the pretraining grid.

    Raises:
        ValueError: If there is no grid.
    """
    if any(isinstance(block.attn.position, FrozenPosition) for block in model.blocks):
        return
    shapes = [model.patch_resolution] if hw_shapes is None else [to_pair('hw_shapes', s) for s in hw_shapes]
    if not shapes:
        raise ValueError('hw_shapes must name at least one token grid (H, W), got none')
    model.eval()
    terms: list[dict[tuple[int, int], Tensor]] = [{} for _ in model.blocks]
    for hw_shape in shapes:
        for i, (grid, block) in enumerate(zip(model.position_grids(hw_shape), model.blocks)):
            if block.attn.position is not None and grid not in terms[i]:
                terms[i][grid] = block.attn.position(grid, model.position_proj)
    for block, frozen in zip(model.blocks, terms):
        if frozen:
            block.attn.position = FrozenPosition(frozen)
    model.position_proj = None
    model.position_cache.clear()
    model.stem.fuse_norm()
