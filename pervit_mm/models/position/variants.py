"""Other position modules, for the paper's ablations."""
from collections.abc import Hashable

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...ops import exact_dtype, expand_offsets, grid_step, offset_distances, without_autocast
from ...utils.errors import UserError
from .base import DISTANCE_SCALES, BasePosition, DistanceProjection, PositionInit


@MODELS.register_module()
class PerViTEuclideanPosition(BasePosition):
    """Φp = sigmoid(D·w + b): one layer on the projected distances (ablation; paper: single-layer Φp).

    Monotonic in distance by construction, so it can tell near from far but not form rings.

    Args:
        num_heads (int): Heads of the attention.
        hidden_channels (int): D, channels of the projected distances.
        pretrain_hw (tuple[int, int]): Grid (H, W) that the weights are trained on.
        distance_scale (str): 'grid': distances are relative to the grid; 'fixed': distances are in steps of the
            pretraining grid. Defaults to 'grid'.

    Raises:
        UserError: If ``distance_scale`` is not one of the above.
    """

    def __init__(self, num_heads: int, hidden_channels: int, pretrain_hw: tuple[int, int],
                 distance_scale: str = 'grid') -> None:
        super().__init__()
        if distance_scale not in DISTANCE_SCALES:
            raise UserError(f'distance_scale must be one of {DISTANCE_SCALES}, got {distance_scale!r}')
        self.pretrain_hw = tuple(pretrain_hw)
        self.distance_scale = distance_scale
        self.weight = nn.Parameter(torch.empty(num_heads, hidden_channels))
        self.bias = nn.Parameter(torch.empty(num_heads))
        self.init_position(PositionInit(0., 1., None))

    def cache_key(self) -> Hashable:
        """The options that log Φp depends on."""
        return self.pretrain_hw, self.distance_scale

    def extra_repr(self) -> str:
        """The same options, for ``print(model)``."""
        return f'pretrain_hw={self.pretrain_hw}, distance_scale={self.distance_scale!r}'

    def init_position(self, values: PositionInit) -> None:
        """Truncated normal weights, zero bias. ``values`` is not used: it is for the peripheral projection."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, hw_shape: tuple[int, int], projection: DistanceProjection) -> Tensor:
        """Compute log Φp of a grid, see :meth:`PerViTPeripheralPosition.forward`."""
        n = hw_shape[0] * hw_shape[1]
        fixed = self.distance_scale == 'fixed'
        step = grid_step(self.pretrain_hw if fixed else hw_shape, self.pretrain_hw)
        with without_autocast(self.weight.device):
            distances = offset_distances(hw_shape, step, device=self.weight.device)
            exact = exact_dtype(distances.device)
            logits = F.linear(projection(distances).to(exact), self.weight.to(exact), self.bias.to(exact)).float()
            windows = expand_offsets(F.logsigmoid(logits).permute(2, 0, 1), hw_shape)
            return windows.flip(1, 2).reshape(-1, n, n)


@MODELS.register_module()
class PerViTRelativePositionBias(BasePosition):
    """A learned bias for every offset and head, as in Swin: log Φp is the table itself (ablation).

    The table has one entry for each offset of the pretraining grid. For another grid it is resized (bicubic, float32).

    Args:
        num_heads (int): Heads of the attention.
        pretrain_hw (tuple[int, int]): Grid (H, W) that the table is made for.
        hidden_channels (int, optional): Unused by this variant, which has no distance projection. Defaults to None.
    """

    #: The backbone makes no distance projection if no block needs one.
    needs_projection = False

    def __init__(self, num_heads: int, pretrain_hw: tuple[int, int],
                 hidden_channels: int | None = None) -> None:
        super().__init__()
        h, w = pretrain_hw
        self.table = nn.Parameter(torch.zeros(num_heads, 2 * h - 1, 2 * w - 1))

    def init_position(self, values: PositionInit) -> None:
        """Truncated normal, as in Swin. ``values`` is not used: it is for the peripheral projection."""
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, hw_shape: tuple[int, int], projection: DistanceProjection | None = None) -> Tensor:
        """Compute log Φp of a grid, ``(nH, N, N)`` float32, which may be above 0 here."""
        n = hw_shape[0] * hw_shape[1]
        size = (2 * hw_shape[0] - 1, 2 * hw_shape[1] - 1)
        table = self.table.float()
        if size != tuple(table.shape[1:]):
            table = F.interpolate(table[None], size=size, mode='bicubic', align_corners=False)[0]
        return expand_offsets(table, hw_shape).flip(1, 2).reshape(-1, n, n)
