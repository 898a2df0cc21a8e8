"""What a position module is: the contract between the backbone and whatever makes log Φp."""
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...utils.errors import UserError

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
    """D = R·w_r + b_r: projects a distance to channels, for all blocks and heads (paper: peripheral projections).

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


class BasePosition(nn.Module):
    """Base class of position modules: makes log Φp of a grid from its weights alone.

    A module of your own derives from it, is registered in ``MODELS`` and has two methods: :meth:`forward` and
    :meth:`init_position`. ``position_cfg=dict(type='YourClass', ...)`` then takes it. The backbone builds it with
    ``num_heads``, ``hidden_channels`` and ``pretrain_hw``, and with your options.

    The rest has defaults:

    - ``needs_projection``: whether it asks for the projected distances. With False everywhere the backbone makes no
      projection: weights without a gradient are an error under DDP.
    - ``frozen``: whether log Φp is stored instead of computed. The backbone then keeps no second copy.
    - :meth:`cache_key`: what log Φp depends on besides weights and buffers.
    - :meth:`group_key` and :meth:`forward_blocks`: how several blocks are computed together.
    """

    needs_projection: bool = True
    frozen: bool = False

    def __init_subclass__(cls, **kwargs) -> None:
        """A class with a ``forward`` of its own is computed alone, unless it says how it is grouped."""
        super().__init_subclass__(**kwargs)
        if 'forward' in vars(cls) and 'group_key' not in vars(cls):
            cls.group_key = BasePosition.group_key

    def forward(self, hw_shape: tuple[int, int], projection: DistanceProjection | None) -> Tensor:
        """Compute log Φp of a grid.

        Args:
            hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
            projection (DistanceProjection, optional): Shared by all blocks; None if no block needs one.

        Returns:
            Tensor: ``(nH, N, N)`` float32, rows queries.
        """
        raise NotImplementedError(f'{type(self).__name__} must have forward(hw_shape, projection), giving log Φp')

    def init_position(self, values: PositionInit) -> None:
        """Write initial values into the weights.

        Args:
            values (PositionInit): Values of this block.
        """
        raise NotImplementedError(f'{type(self).__name__} must have init_position(values), which fills its weights')

    def cache_key(self) -> Hashable:
        """What log Φp depends on besides weights and buffers, and may change after building. Defaults to nothing."""
        return ()

    def group_key(self) -> Hashable | None:
        """Blocks with equal keys are computed together by :meth:`forward_blocks`. Defaults to None: alone."""
        return None

    @staticmethod
    def forward_blocks(modules: Sequence['BasePosition'], hw_shape: tuple[int, int],
                       projection: DistanceProjection | None) -> Sequence[Tensor]:
        """Compute log Φp of a grid for several blocks with equal :meth:`group_key`.

        Args:
            modules (Sequence[BasePosition]): Of the blocks.
            hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
            projection (DistanceProjection, optional): Shared by all blocks.

        Returns:
            Sequence[Tensor]: ``(nH, N, N)`` float32 for each of ``modules``.
        """
        return [module(hw_shape, projection) for module in modules]


def check_position(position: object, name: str) -> None:
    """Raise UserError unless ``position`` is a :class:`BasePosition` or None.

    Without the base class nothing says which options log Φp depends on, and a kept one could be stale.

    Args:
        position (object): What stands, or is to stand, for a position module.
        name (str): Where it is named, for the message.
    """
    if position is not None and not isinstance(position, BasePosition):
        raise UserError(f'{name} must be a pervit_mm.models.BasePosition, got a {type(position).__name__}: derive its '
                        'class from BasePosition, keep its methods forward and init_position, and return in cache_key '
                        'the options that change log Φp')


def make_log_positions(modules: Sequence[BasePosition | None], grids: Sequence[tuple[int, int]],
                       projection: DistanceProjection | None) -> list[Tensor | None]:
    """Make log Φp of several blocks; those with equal grid and group key are made together.

    Args:
        modules (Sequence[BasePosition, optional]): Position module of each block; None without Φp.
        grids (Sequence[tuple[int, int]]): Grid (H, W) of each block in tokens.
        projection (DistanceProjection, optional): Shared by the blocks.

    Returns:
        list[Tensor, optional]: ``(nH, N, N)`` float32 for each block; None without Φp.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, (module, grid) in enumerate(zip(modules, grids)):
        if module is not None:
            key = module.group_key()
            groups.setdefault(i if key is None else (grid, key), []).append(i)
    log_positions: list[Tensor | None] = [None] * len(modules)
    for members in groups.values():
        grid, first = grids[members[0]], modules[members[0]]
        if len(members) == 1:
            made = [first(grid, projection)]
        else:
            made = first.forward_blocks([modules[i] for i in members], grid, projection)
        for i, log_position in zip(members, made):
            log_positions[i] = log_position
    return log_positions


class LogPositions(Sequence):
    """log Φp of each block, as a sequence: ``(nH, N, N)`` float32, or None for a block without Φp.

    Some entries are there already. Others are made at each access, because keeping them would take too much memory:
    under recomputation, and beyond the limit of the cache. Whoever asks sees no difference.

    Args:
        known (Sequence[Tensor, optional]): What is there; None for a block whose entry is made at each access.
        make (Callable[[int], Tensor | None]): Makes the entry of a block.
    """

    def __init__(self, known: Sequence[Tensor | None], make: Callable[[int], Tensor | None]) -> None:
        self._known = known
        self._make = make

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, block: int) -> Tensor | None:
        known = self._known[block]
        return self._make(block) if known is None else known
