"""Position-based attention Φp and its ablation variants.

Every variant is a registered module with the same two methods, so a user's own can take its place:

- ``forward(hw_shape, projection)`` returns log Φp of the grid, ``(nH, N, N)`` float32, from its weights alone;
- ``init_position(values)`` writes initial values, see :class:`PositionInit`.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops import (
    PositionWeights,
    expand_offsets,
    grid_step,
    log_position_map,
    offset_distances,
)

DISTANCE_SCALES = ('grid', 'fixed')


class PositionInit(NamedTuple):
    """Initial values of one block's Φp.

    Attributes:
        size (float): Locality size, β of the last norm: the larger, the more keys are attended.
        strength (float): Locality strength, γ of the last norm: the larger, the steeper Φp falls with distance.
        weight (float, optional): Value of every convolution weight; None draws them from a truncated normal of
            standard deviation 0.02. Defaults to 0.02.
        noise (float): Relative standard deviation of noise on the constant weights, which breaks the symmetry
            between hidden channels. Defaults to 0.
    """

    size: float
    strength: float
    weight: float | None = 0.02
    noise: float = 0.


def fill_(tensor: Tensor, value: float | None, noise: float) -> None:
    """Fill a weight in place: ``value * (1 + noise * N(0, 1))``, or truncated normal (std 0.02) for None."""
    if value is None:
        nn.init.trunc_normal_(tensor, std=0.02)
    elif noise:
        nn.init.normal_(tensor, value, abs(value) * noise)
    else:
        nn.init.constant_(tensor, value)


class DistanceProjection(nn.Module):
    """D = R·w_r + b_r: projects a distance to channels, for all layers and heads (paper: peripheral projections).

    The weights are laid out as those of a Linear 1 → channels, but it is not one: rules like ``TruncNormal`` on
    ``Linear`` in a recipe must not reach it.

    Args:
        channels (int): D, 4 per head in the paper.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1))
        self.bias = nn.Parameter(torch.empty(channels))
        self.init_position()

    def init_position(self, weight: float | None = -0.02, noise: float = 0.) -> None:
        """Write initial values: distances count negatively, so that nearer is more.

        Args:
            weight (float, optional): Value of w_r. Defaults to -0.02; None draws from a truncated normal.
            noise (float): Relative standard deviation around it. Defaults to 0.
        """
        fill_(self.weight, weight, noise)
        nn.init.zeros_(self.bias)

    def forward(self, distances: Tensor) -> Tensor:
        """Project distances ``(...)`` to ``(..., channels)``."""
        return distances[..., None] * self.weight.float()[:, 0] + self.bias.float()

    def extra_repr(self) -> str:
        """Channels, for ``print(model)``."""
        return f'channels={self.weight.shape[0]}'


@MODELS.register_module()
class PerViTPeripheralPosition(nn.Module):
    """Φp = sigmoid(IN(Conv(ReLU(IN(Conv(D)))))): the peripheral projection (paper: peripheral projections).

    Convolutions run over the key axes, instance norms over the keys of each query. Computed in float32, whatever
    autocast says, through :func:`pervit_mm.ops.log_position_map`.

    Args:
        num_heads (int): Heads of the attention.
        hidden_channels (int): D, channels of the projected distances.
        pretrain_hw (tuple[int, int]): Grid (H, W) that the weights are trained on.
        kernel_size (int): Of both convolutions, 3 (the paper's) or 1. Defaults to 3.
        norm (bool): Whether the instance norms stand behind the convolutions. Defaults to True.
        distance_scale (str): What a grid larger than ``pretrain_hw`` means. 'grid': distances are relative to the
            grid, so the reach of a head grows with it. 'fixed': step and norm statistics stay those of
            the pretraining grid around each query, so reach in tokens stays what it was. Defaults to 'grid'.

    Raises:
        ValueError: If ``kernel_size`` or ``distance_scale`` is not one of the above.
    """

    def __init__(self, num_heads: int, hidden_channels: int, pretrain_hw: tuple[int, int],
                 kernel_size: int = 3, norm: bool = True, distance_scale: str = 'grid') -> None:
        super().__init__()
        if kernel_size not in (1, 3):
            raise ValueError(f'kernel_size of PerViTPeripheralPosition must be 1 or 3, got {kernel_size!r}')
        if distance_scale not in DISTANCE_SCALES:
            raise ValueError(f'distance_scale must be one of {DISTANCE_SCALES}, got {distance_scale!r}')
        self.pretrain_hw = tuple(pretrain_hw)
        self.distance_scale = distance_scale
        # These modules hold parameters; the computation is the offset-map form in ops.
        self.conv1 = nn.Conv2d(hidden_channels, hidden_channels, kernel_size)
        self.norm1 = nn.GroupNorm(hidden_channels, hidden_channels) if norm else None
        self.conv2 = nn.Conv2d(hidden_channels, num_heads, kernel_size)
        self.norm2 = nn.GroupNorm(num_heads, num_heads) if norm else None

    def init_position(self, values: PositionInit) -> None:
        """Peripheral initialization of one block (paper: peripheral initialization).

        Without norms, size goes to the bias of the last convolution, strength has no counterpart, and the weights
        are drawn from a truncated normal: constant ones would leave every ReLU dead.

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

    def position_weights(self, projection: DistanceProjection) -> PositionWeights:
        """All weights that Φp is made from, float32."""
        norms = [(None, None) if norm is None else (norm.weight, norm.bias)
                 for norm in (self.norm1, self.norm2)]
        weights = PositionWeights(projection.weight, projection.bias, self.conv1.weight,
                                  self.conv1.bias, *norms[0], self.conv2.weight, self.conv2.bias, *norms[1])
        return PositionWeights(*(w if w is None else w.float() for w in weights))

    def forward(self, hw_shape: tuple[int, int], projection: DistanceProjection) -> Tensor:
        """Compute log Φp of a grid.

        Args:
            hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
            projection (DistanceProjection): Shared by all blocks.

        Returns:
            Tensor: ``(nH, N, N)`` float32, at most 0.
        """
        with torch.autocast(projection.weight.device.type, enabled=False):
            weights = self.position_weights(projection)
            if self.distance_scale == 'fixed':
                step, stat_hw = grid_step(self.pretrain_hw), self.pretrain_hw
            else:
                step, stat_hw = grid_step(hw_shape, self.pretrain_hw), None
            return log_position_map(weights, hw_shape, step, stat_hw)

    def extra_repr(self) -> str:
        """What the weights don't tell, for ``print(model)``."""
        return f'pretrain_hw={self.pretrain_hw}, distance_scale={self.distance_scale!r}'


@MODELS.register_module()
class PerViTEuclideanPosition(nn.Module):
    """Φp = sigmoid(D·w + b): one layer on the projected distances (ablation; paper: single-layer Φp).

    Monotonic in distance by construction, so it can tell near from far but not form rings.

    Args:
        num_heads (int): Heads of the attention.
        hidden_channels (int): D, channels of the projected distances.
        pretrain_hw (tuple[int, int]): Grid (H, W) that the weights are trained on.
        distance_scale (str): 'grid': distances are relative to the grid; 'fixed': distances are in steps of the
            pretraining grid. Defaults to 'grid'.

    Raises:
        ValueError: If ``distance_scale`` is not one of the above.
    """

    def __init__(self, num_heads: int, hidden_channels: int, pretrain_hw: tuple[int, int],
                 distance_scale: str = 'grid') -> None:
        super().__init__()
        if distance_scale not in DISTANCE_SCALES:
            raise ValueError(f'distance_scale must be one of {DISTANCE_SCALES}, got {distance_scale!r}')
        self.pretrain_hw = tuple(pretrain_hw)
        self.distance_scale = distance_scale
        self.weight = nn.Parameter(torch.empty(num_heads, hidden_channels))
        self.bias = nn.Parameter(torch.empty(num_heads))
        self.init_position(PositionInit(0., 1., None))

    def init_position(self, values: PositionInit) -> None:
        """Truncated normal weights, zero bias: size and strength belong to the peripheral projection."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, hw_shape: tuple[int, int], projection: DistanceProjection) -> Tensor:
        """Compute log Φp of a grid, see :meth:`PerViTPeripheralPosition.forward`."""
        n = hw_shape[0] * hw_shape[1]
        fixed = self.distance_scale == 'fixed'
        step = grid_step(self.pretrain_hw if fixed else hw_shape, self.pretrain_hw)
        with torch.autocast(self.weight.device.type, enabled=False):
            distances = offset_distances(hw_shape, step, device=self.weight.device)
            logits = F.linear(projection(distances), self.weight.float(), self.bias.float())
            windows = expand_offsets(F.logsigmoid(logits).permute(2, 0, 1), hw_shape)
            return windows.flip(1, 2).reshape(-1, n, n)


@MODELS.register_module()
class PerViTRelativePositionBias(nn.Module):
    """A learned bias for every offset and head, as in Swin: log Φp is the table itself (ablation).

    The table has the size of the pretraining grid; another grid reads it resized (bicubic, float32).

    Args:
        num_heads (int): Heads of the attention.
        pretrain_hw (tuple[int, int]): Grid (H, W) that the table is made for.
        hidden_channels (int, optional): Unused by this variant, which has no distance projection. Defaults to None.
    """

    #: The backbone makes no distance projection when no block wants one.
    needs_projection = False

    def __init__(self, num_heads: int, pretrain_hw: tuple[int, int],
                 hidden_channels: int | None = None) -> None:
        super().__init__()
        h, w = pretrain_hw
        self.table = nn.Parameter(torch.zeros(num_heads, 2 * h - 1, 2 * w - 1))

    def init_position(self, values: PositionInit) -> None:
        """Truncated normal, as Swin has it: size and strength belong to the peripheral projection."""
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, hw_shape: tuple[int, int], projection: DistanceProjection | None = None) -> Tensor:
        """Compute the additive term of a grid, ``(nH, N, N)`` float32."""
        n = hw_shape[0] * hw_shape[1]
        size = (2 * hw_shape[0] - 1, 2 * hw_shape[1] - 1)
        table = self.table.float()
        if size != tuple(table.shape[1:]):
            table = F.interpolate(table[None], size=size, mode='bicubic', align_corners=False)[0]
        return expand_offsets(table, hw_shape).flip(1, 2).reshape(-1, n, n)


class FrozenPosition(nn.Module):
    """log Φp of named grids as buffers: what deployment leaves of a position module.

    Args:
        terms (dict[tuple[int, int], Tensor]): log Φp ``(nH, N, N)`` by grid (H, W).
    """

    def __init__(self, terms: dict[tuple[int, int], Tensor]) -> None:
        super().__init__()
        for (h, w), term in terms.items():
            self.register_buffer(f'grid_{h}x{w}', term.detach().clone())

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
