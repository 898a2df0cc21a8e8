"""PerViT in its deployed form: Φp frozen into buffers, BatchNorm folded into the stem."""
from collections.abc import Mapping, Sequence

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..utils.errors import UserError
from .arch import to_pair
from .position import FrozenPosition, frozen_log_positions

#: Name of a buffer that only a deployed backbone has, and so a key of its state dict.
MARKER = 'deployed'


def is_deployed_state(state_dict: Mapping[str, Tensor], prefix: str = '') -> bool:
    """Whether a state dict is that of a deployed PerViT, by its marker.

    Args:
        state_dict (Mapping[str, Tensor]): Of a PerViT, or of a model around one.
        prefix (str): What the backbone's keys begin with. Defaults to ''.

    Returns:
        bool: True if it is.
    """
    return f'{prefix}{MARKER}' in state_dict


def _take_frozen(backbone: nn.Module, log_positions: Mapping[int, dict[tuple[int, int], Tensor]]) -> None:
    """Replace the position modules by log Φp for each block and grid, fold the stem, and set the marker."""
    for index, by_grid in log_positions.items():
        backbone.blocks[index].attn.position = FrozenPosition(by_grid)
    backbone.position_proj = None
    if backbone.position_cache is not None:
        backbone.position_cache.clear()
    backbone.stem.fuse_norm()
    device = next(backbone.stem.parameters()).device
    backbone.register_buffer(MARKER, torch.ones((), dtype=torch.int64, device=device))


@torch.inference_mode(False)  # or no gradient, as of Grad-CAM, could pass the deployed model
@torch.no_grad()
def deploy(backbone: nn.Module, hw_shapes: Sequence[tuple[int, int]] | None = None) -> None:
    """Freeze Φp and fold the stem of a PerViT; see ``PerViT.switch_to_deploy``.

    Args:
        backbone (nn.Module): The PerViT, changed in place. If it is deployed already, it stays as it is.
        hw_shapes (Sequence[tuple[int, int]], optional): Token grids (H, W). Defaults to None, the pretraining grid.

    Raises:
        UserError: If ``hw_shapes`` is empty, or an entry is no grid.
    """
    if hasattr(backbone, MARKER):
        return
    shapes = [backbone.patch_resolution] if hw_shapes is None else hw_shapes
    if not isinstance(shapes, Sequence) or not shapes or any(type(shape) is int for shape in shapes):
        raise UserError(f'hw_shapes must be token grids (H, W), one or more, such as [(14, 20)], got {hw_shapes!r}')
    shapes = [to_pair('hw_shapes', shape) for shape in shapes]
    backbone.eval()
    log_positions: dict[int, dict[tuple[int, int], Tensor]] = {}
    for hw_shape in shapes:
        for i, (grid, block) in enumerate(zip(backbone.position_grids(hw_shape), backbone.blocks)):
            if block.attn.position is not None and grid not in log_positions.setdefault(i, {}):
                log_positions[i][grid] = block.attn.position(grid, backbone.position_proj)
    _take_frozen(backbone, log_positions)


@torch.inference_mode(False)
@torch.no_grad()
def follow_checkpoint(backbone: nn.Module, state_dict: Mapping[str, Tensor], prefix: str = '') -> None:
    """Convert a PerViT to the deployed form before a state dict is loaded, if the state dict is a deployed one.

    Without this a deployed file would load only in part, with a warning at most, and give other outputs.

    Args:
        backbone (nn.Module): The PerViT, changed in place if the state dict is a deployed one.
        state_dict (Mapping[str, Tensor]): What is about to be loaded.
        prefix (str): What the backbone's keys begin with. Defaults to ''.

    Raises:
        UserError: If the PerViT is deployed and the state dict isn't.
    """
    if hasattr(backbone, MARKER) and not is_deployed_state(state_dict, prefix) and any(
            key.startswith(f'{prefix}stem.') for key in state_dict):
        raise UserError('this PerViT is deployed, and the weights are not: the stem would get convolutions without '
                        'their BatchNorm, and keep the old Φp. Load them into a new model, and deploy that')
    found = frozen_log_positions(state_dict, prefix)
    has_position = any(block.attn.position is not None for block in backbone.blocks)
    # A deployed state dict without Φp doesn't fit a model with Φp. Loading will report what is missing.
    if not is_deployed_state(state_dict, prefix) or (has_position and not found):
        return
    device = next(backbone.parameters()).device
    _take_frozen(backbone, {
        index: {grid: torch.empty_like(log_position, device=device) for grid, log_position in by_grid.items()}
        for index, by_grid in found.items() if index < len(backbone.blocks)})
    grids = sorted({f'{h}x{w}' for by_grid in found.values() for h, w in by_grid})
    on = f', on the token grids {", ".join(grids)}' if grids else ''
    print_log(f'PerViT: the checkpoint is deployed, for inference{on}: BatchNorm of the stem is folded', 'current')
