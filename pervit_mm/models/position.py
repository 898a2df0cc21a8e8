"""Position-based attention Φp.

A position module is registered and has two methods, so a user's own can take its place:

- ``forward(hw_shape, projection)`` returns log Φp of the grid, ``(nH, N, N)`` float32, from its weights alone;
- ``init_position(values)`` writes initial values, see :class:`PositionInit`.

Two more where they apply:

- ``needs_projection = False`` for one that never asks ``projection``: otherwise the backbone makes one, whose weights
  would go without a gradient, which DDP refuses;
- ``extra_repr()`` with the options that log Φp depends on and that may change after it was built: what is kept between
  calls without gradient is known by it, and by the weights.
"""
from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops import PositionWeights, grid_step, log_position_maps, without_autocast

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
    autocast says, through :func:`pervit_mm.ops.log_position_maps`.

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

    def options(self) -> tuple:
        """What blocks must have in common to be computed together; frozen ones stay apart, they need no backward."""
        weight = self.conv1.weight
        return (tuple(weight.shape), tuple(self.conv2.weight.shape), self.norm1 is None, self.pretrain_hw,
                self.distance_scale, weight.requires_grad, weight.dtype)

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
        """Compute log Φp of a grid for several blocks at once, in a fraction of the calls.

        Args:
            modules (Sequence[PerViTPeripheralPosition]): Of the blocks, equal but for their weights.
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
            return log_position_maps(weights, hw_shape, step, stat_hw)

    def extra_repr(self) -> str:
        """What the weights don't tell, for ``print(model)``."""
        return f'pretrain_hw={self.pretrain_hw}, distance_scale={self.distance_scale!r}'


def log_position_terms(modules: Sequence[nn.Module | None], grids: Sequence[tuple[int, int]],
                       projection: DistanceProjection | None) -> list[Tensor | None]:
    """log Φp of several blocks; those that differ in nothing but weights go together.

    Args:
        modules (Sequence[nn.Module, optional]): Position module of each block; None without Φp.
        grids (Sequence[tuple[int, int]]): Grid (H, W) of each block in tokens.
        projection (DistanceProjection, optional): Shared by the blocks.

    Returns:
        list[Tensor, optional]: ``(nH, N, N)`` float32 for each block; None without Φp.
    """
    groups: dict[object, list[int]] = {}
    for i, (module, grid) in enumerate(zip(modules, grids)):
        if module is not None:
            # A subclass may do something else in forward, so it stays alone.
            alike = (grid, *module.options()) if type(module) is PerViTPeripheralPosition else i
            groups.setdefault(alike, []).append(i)
    terms: list[Tensor | None] = [None] * len(modules)
    for members in groups.values():
        grid, first = grids[members[0]], modules[members[0]]
        if len(members) == 1:
            terms[members[0]] = first(grid, projection)
            continue
        together = first.forward_blocks([modules[i] for i in members], grid, projection)
        for i, term in zip(members, together):
            terms[i] = term
    return terms
