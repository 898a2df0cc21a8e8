"""Φp frozen into buffers: what deployment leaves of the position network."""
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from mmengine.logging import print_log
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


def _take_frozen(model: 'PerViT', terms: Mapping[int, dict[tuple[int, int], Tensor]]) -> None:
    """Put log Φp by block and grid in place of the position modules, and fold the stem."""
    for index, frozen in terms.items():
        model.blocks[index].attn.position = FrozenPosition(frozen)
    model.position_proj = None
    model.position_cache.clear()
    model.stem.fuse_norm()


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
    terms: dict[int, dict[tuple[int, int], Tensor]] = {}
    for hw_shape in shapes:
        for i, (grid, block) in enumerate(zip(model.position_grids(hw_shape), model.blocks)):
            if block.attn.position is not None and grid not in terms.setdefault(i, {}):
                terms[i][grid] = block.attn.position(grid, model.position_proj)
    _take_frozen(model, terms)


def frozen_terms(state_dict: Mapping[str, Tensor], prefix: str = '') -> dict[int, dict[tuple[int, int], Tensor]]:
    """log Φp that a deployed state dict holds.

    Args:
        state_dict (Mapping[str, Tensor]): Of a PerViT, or of a model around one.
        prefix (str): What stands ahead of the backbone's keys. Defaults to ''.

    Returns:
        dict[int, dict]: By block, then by grid (H, W); empty unless the state dict is a deployed one.
    """
    pattern = re.compile(re.escape(prefix) + r'blocks\.(\d+)\.attn\.position\.grid_(\d+)x(\d+)')
    terms: dict[int, dict[tuple[int, int], Tensor]] = {}
    for key, value in state_dict.items():
        if found := pattern.fullmatch(key):
            block, h, w = map(int, found.groups())
            terms.setdefault(block, {})[h, w] = value
    return terms


def lacks_stem_norm(model: nn.Module, state_dict: Mapping[str, Tensor], prefix: str = '') -> bool:
    """Whether a state dict has the convolutions of the stem and no trace of the BatchNorm that the model has there.

    Without Φp (``position_cfg=None``) this is all that marks a deployed state dict.

    Args:
        model (nn.Module): The backbone; for one that has no BatchNorm in its stem this is False.
        state_dict (Mapping[str, Tensor]): Of a PerViT, or of a model around one.
        prefix (str): What stands ahead of the backbone's keys. Defaults to ''.

    Returns:
        bool: True only if that holds for every BatchNorm of the stem, and the state dict has more than the stem: one
        with a part is incomplete. Never for a model with Φp, whose deployed form has frozen terms.
    """
    if any(block.attn.position is not None for block in getattr(model, 'blocks', ())) or all(
            key.startswith(f'{prefix}stem.') for key in state_dict if key.startswith(prefix)):
        return False
    layers = getattr(getattr(model, 'stem', None), 'layers', ())  # PatchifyStem has none
    starts = [f'{prefix}stem.layers.{i}.' for i, layer in enumerate(layers)
              if isinstance(layer.norm, nn.modules.batchnorm._BatchNorm)]
    return bool(starts) and all(f'{start}conv.weight' in state_dict for start in starts) and not any(
        key.startswith(f'{start}norm.') for start in starts for key in state_dict)


@torch.no_grad()
def follow_checkpoint(model: 'PerViT', state_dict: Mapping[str, Tensor], prefix: str = '') -> None:
    """Bring a PerViT into the deployed form that a state dict has, ahead of loading it.

    Without this a deployed file would load in part, with a warning at most, and give other outputs.

    Args:
        model (PerViT): Changed in place if the state dict is a deployed one.
        state_dict (Mapping[str, Tensor]): What is about to be loaded.
        prefix (str): What stands ahead of the backbone's keys. Defaults to ''.
    """
    terms = frozen_terms(state_dict, prefix)
    if not terms:
        if lacks_stem_norm(model, state_dict, prefix):
            model.stem.fuse_norm()
            print_log('PerViT: the checkpoint is deployed, for inference: BatchNorm of the stem is folded', 'current')
        return
    device = next(model.parameters()).device
    _take_frozen(model, {
        index: {grid: torch.empty_like(term, device=device) for grid, term in frozen.items()}
        for index, frozen in terms.items() if index < len(model.blocks)})
    grids = sorted({f'{h}x{w}' for frozen in terms.values() for h, w in frozen})
    print_log(f'PerViT: the checkpoint is deployed, for inference on the token grids {", ".join(grids)}', 'current')
