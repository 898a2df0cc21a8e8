"""The paper's position network: peripheral projections."""
from collections.abc import Hashable, Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...ops import PositionWeights, grid_step, log_positions, without_autocast
from ...utils.errors import UserError
from .base import DISTANCE_SCALES, BasePosition, DistanceProjection, PositionInit, fill_


@MODELS.register_module()
class PerViTPeripheralPosition(BasePosition):
    """Φp = sigmoid(IN(Conv(ReLU(IN(Conv(D)))))): the peripheral projection (paper: peripheral projections).

    Convolutions run over the key axes, and instance norms over the keys of each query.
    :func:`pervit_mm.ops.log_positions` computes it, in float32 also under autocast.

    Args:
        num_heads (int): Heads of the attention.
        hidden_channels (int): D, channels of the projected distances.
        pretrain_hw (tuple[int, int]): Grid (H, W) that the weights are trained on.
        kernel_size (int): Of both convolutions, 3 (the paper's) or 1. Defaults to 3.
        norm (bool): Whether an instance norm follows each convolution. Defaults to True.
        distance_scale (str): What distance means on a grid other than ``pretrain_hw``. 'grid': distances are relative
            to the grid, so the reach of a head grows with the grid. 'fixed': the step is that of the pretraining grid,
            and the norms take their statistics over a window of that size around each query, so the reach in tokens
            stays the same. Defaults to 'grid'.

    Raises:
        UserError: If ``kernel_size`` or ``distance_scale`` is not one of the above.
    """

    def __init__(self, num_heads: int, hidden_channels: int, pretrain_hw: tuple[int, int],
                 kernel_size: int = 3, norm: bool = True, distance_scale: str = 'grid') -> None:
        super().__init__()
        if kernel_size not in (1, 3):
            raise UserError(f'kernel_size of PerViTPeripheralPosition must be 1 or 3, got {kernel_size!r}')
        if distance_scale not in DISTANCE_SCALES:
            raise UserError(f'distance_scale must be one of {DISTANCE_SCALES}, got {distance_scale!r}')
        self.pretrain_hw = tuple(pretrain_hw)
        self.distance_scale = distance_scale
        # These modules only hold parameters. pervit_mm.ops computes with them, on offset maps.
        self.conv1 = nn.Conv2d(hidden_channels, hidden_channels, kernel_size)
        self.norm1 = nn.GroupNorm(hidden_channels, hidden_channels) if norm else None
        self.conv2 = nn.Conv2d(hidden_channels, num_heads, kernel_size)
        self.norm2 = nn.GroupNorm(num_heads, num_heads) if norm else None

    def init_position(self, values: PositionInit) -> None:
        """Peripheral initialization of one block (paper: peripheral initialization).

        Without norms, size becomes the bias of the last convolution and strength is not used. The weights are then
        drawn from a truncated normal, because constant ones would leave every ReLU dead.

        Args:
            values (PositionInit): Values of this block.
        """
        weight = values.weight if self.norm1 is not None else None
        for conv in (self.conv1, self.conv2):
            fill_(conv.weight, weight, values.noise)
            nn.init.zeros_(conv.bias)
        if self.norm1 is None:
            nn.init.constant_(self.conv2.bias, values.size)
            return
        nn.init.ones_(self.norm1.weight)
        nn.init.zeros_(self.norm1.bias)
        nn.init.constant_(self.norm2.weight, values.strength)
        nn.init.constant_(self.norm2.bias, values.size)

    def cache_key(self) -> Hashable:
        """The options that log Φp depends on."""
        return self.pretrain_hw, self.distance_scale

    def group_key(self) -> Hashable:
        """Shapes and options. Blocks that don't train are computed separately, because they need no backward."""
        weight = self.conv1.weight
        return (type(self), tuple(weight.shape), tuple(self.conv2.weight.shape), self.norm1 is None,
                self.pretrain_hw, self.distance_scale, weight.requires_grad, weight.dtype)

    def position_weights(self) -> list[Tensor | None]:
        """Weights of this block, in the order of :class:`pervit_mm.ops.PositionWeights`."""
        norms = [(None, None) if norm is None else (norm.weight, norm.bias) for norm in (self.norm1, self.norm2)]
        return [self.conv1.weight, self.conv1.bias, *norms[0], self.conv2.weight, self.conv2.bias, *norms[1]]

    def forward(self, hw_shape: tuple[int, int], projection: DistanceProjection) -> Tensor:
        """Compute log Φp of a grid.

        Args:
            hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
            projection (DistanceProjection): Shared by all blocks.

        Returns:
            Tensor: ``(nH, N, N)`` float32, at most 0.
        """
        return self.forward_blocks([self], hw_shape, projection)[0]

    @staticmethod
    def forward_blocks(modules: Sequence['PerViTPeripheralPosition'], hw_shape: tuple[int, int],
                       projection: DistanceProjection) -> tuple[Tensor, ...]:
        """Compute log Φp of a grid for several blocks at once, with fewer calls than one by one.

        Args:
            modules (Sequence[PerViTPeripheralPosition]): Position module of each block, equal except for the weights.
            hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
            projection (DistanceProjection): Shared by all blocks.

        Returns:
            tuple[Tensor, ...]: ``(nH, N, N)`` float32 for each of ``modules``.
        """
        first = modules[0]
        with without_autocast(projection.weight.device):
            by_block = zip(*(module.position_weights() for module in modules))
            stacked = (None if tensors[0] is None else torch.stack([t.float() for t in tensors])
                       for tensors in by_block)
            weights = PositionWeights(projection.weight.float(), projection.bias.float(), *stacked)
            if first.distance_scale == 'fixed':
                step, stat_hw = grid_step(first.pretrain_hw), first.pretrain_hw
            else:
                step, stat_hw = grid_step(hw_shape, first.pretrain_hw), None
            return log_positions(weights, hw_shape, step, stat_hw)

    def extra_repr(self) -> str:
        """Options that the submodules don't show, for ``print(model)``."""
        return f'pretrain_hw={self.pretrain_hw}, distance_scale={self.distance_scale!r}'
