"""Φp frozen into buffers, which replace the position network in deployment."""
import re
from collections.abc import Mapping

from torch import Tensor

from ...utils.errors import UserError
from .base import BasePosition, DistanceProjection, PositionInit


class FrozenPosition(BasePosition):
    """log Φp of named grids as buffers, which replaces a position module in deployment.

    Args:
        log_positions (dict[tuple[int, int], Tensor]): log Φp ``(nH, N, N)`` by grid (H, W).
    """

    needs_projection = False
    frozen = True

    def __init__(self, log_positions: dict[tuple[int, int], Tensor]) -> None:
        super().__init__()
        for (h, w), log_position in log_positions.items():
            # No copy: the tensors were made for this and may take gigabytes.
            self.register_buffer(f'grid_{h}x{w}', log_position.detach())

    def forward(self, hw_shape: tuple[int, int], projection: DistanceProjection | None = None) -> Tensor:
        """Look up log Φp of a grid, ``(nH, N, N)`` float32.

        Raises:
            UserError: If the grid was not frozen.
        """
        name = f'grid_{hw_shape[0]}x{hw_shape[1]}'
        if name not in self._buffers:
            have = ', '.join(key.removeprefix('grid_') for key in self._buffers)
            raise UserError(
                f'this PerViT was deployed for the token grids {have} and got {hw_shape[0]}x{hw_shape[1]}; '
                'call switch_to_deploy(hw_shapes=[...]) on the trained model with every grid you need')
        return self._buffers[name]

    def init_position(self, values: PositionInit) -> None:
        """Do nothing: frozen values stay."""


def frozen_log_positions(state_dict: Mapping[str, Tensor],
                         prefix: str = '') -> dict[int, dict[tuple[int, int], Tensor]]:
    """log Φp that a deployed state dict holds.

    Args:
        state_dict (Mapping[str, Tensor]): Of a PerViT, or of a model around one.
        prefix (str): What the backbone's keys begin with. Defaults to ''.

    Returns:
        dict[int, dict]: By block, then by grid (H, W); empty unless the state dict is a deployed one with Φp.
    """
    pattern = re.compile(re.escape(prefix) + r'blocks\.(\d+)\.attn\.position\.grid_(\d+)x(\d+)')
    log_positions: dict[int, dict[tuple[int, int], Tensor]] = {}
    for key, value in state_dict.items():
        if found := pattern.fullmatch(key):
            block, h, w = map(int, found.groups())
            log_positions.setdefault(block, {})[h, w] = value
    return log_positions
