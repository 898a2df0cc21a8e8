"""What a position module is: the contract between the backbone and the modules that make log Φp."""
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

    The weights have the layout of a Linear from 1 to ``channels``. The module is no Linear, so that rules of a recipe
    such as ``TruncNormal`` on ``Linear`` don't reach it.

    Args:
        channels (int): D, 4 per head in the paper.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1))
        self.bias = nn.Parameter(torch.empty(channels))
        self.init_position()

    def init_position(self, weight: float | None = -0.02, noise: float = 0.) -> None:
        """Write initial values. The negative default gives nearer keys larger values.

        Args:
            weight (float, optional): Value of w_r. None draws from a truncated normal. Defaults to -0.02.
            noise (float): Relative standard deviation of noise on that value. Defaults to 0.
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
    """Base class of position modules, which make log Φp of a grid from their weights alone.

    Derive your own module from it, register the module in ``MODELS``, and give it two methods: :meth:`forward` and
    :meth:`init_position`. Then choose it by ``position_cfg=dict(type='YourClass', ...)``. The backbone builds it with
    ``num_heads``, ``hidden_channels`` and ``pretrain_hw``, and with your options.

    The rest has defaults:

    - ``needs_projection``: whether the module uses the distance projection. If no block does, the backbone makes no
      projection, because weights without a gradient are an error under DDP.
    - ``frozen``: whether log Φp is stored instead of computed. The backbone then keeps no second copy.
    - :meth:`cache_key`: what log Φp depends on besides weights and buffers.
    - :meth:`group_key` and :meth:`forward_blocks`: how several blocks are computed together.
    """

    needs_projection: bool = True
    frozen: bool = False

    def __init_subclass__(cls, **kwargs) -> None:
        """Compute a class with its own ``forward`` block by block, unless it has its own ``group_key`` too."""
        super().__init_subclass__(**kwargs)
        # The first of its classes that has either; a mixin may bring the forward.
        first = next(one for one in cls.__mro__ if {'forward', 'group_key'} & vars(one).keys())
        if 'group_key' not in vars(first):
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
        """Options that log Φp depends on, besides weights and buffers, and that may change later. Defaults to none."""
        return ()

    def group_key(self) -> Hashable | None:
        """Key of a group: :meth:`forward_blocks` computes blocks with equal keys together. Defaults to None: alone."""
        return None

    @staticmethod
    def forward_blocks(modules: Sequence['BasePosition'], hw_shape: tuple[int, int],
                       projection: DistanceProjection | None) -> Sequence[Tensor]:
        """Compute log Φp of a grid for several blocks with equal :meth:`group_key`.

        Args:
            modules (Sequence[BasePosition]): Position module of each block.
            hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
            projection (DistanceProjection, optional): Shared by all blocks.

        Returns:
            Sequence[Tensor]: ``(nH, N, N)`` float32 for each of ``modules``.
        """
        return [module(hw_shape, projection) for module in modules]


def check_position(position: object, name: str) -> None:
    """Raise UserError unless ``position`` is a :class:`BasePosition` or None.

    Only the base class guarantees a ``cache_key``, which names the options that log Φp depends on. Without it the cache
    could return a stale log Φp.

    Args:
        position (object): The position module to check.
        name (str): Its option or attribute, for the message.
    """
    if position is not None and not isinstance(position, BasePosition):
        raise UserError(f'{name} must be a pervit_mm.models.BasePosition, got a {type(position).__name__}: derive its '
                        'class from BasePosition, keep its methods forward and init_position, and return in cache_key '
                        'the options that change log Φp')


def make_log_positions(modules: Sequence[BasePosition | None], grids: Sequence[tuple[int, int]],
                       projection: DistanceProjection | None) -> list[Tensor | None]:
    """Make log Φp of several blocks. Blocks with equal grid and group key are computed together.

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

    Some entries are known from the start. The module of the block makes the others at each access, for example where
    storing them would take too much memory: under recomputation, and beyond the limit of the cache. The caller sees no
    difference.

    Args:
        known (Sequence[Tensor, optional]): The known entries; None for a block whose entry is made at each access.
        make (Callable[[int], Tensor | None]): Makes the entry of a block.
    """

    def __init__(self, known: Sequence[Tensor | None], make: Callable[[int], Tensor | None]) -> None:
        self._known = known
        self._make = make

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, block: int | slice) -> Tensor | None | list[Tensor | None]:
        if isinstance(block, slice):
            return [self[i] for i in range(*block.indices(len(self)))]
        known = self._known[block]
        return self._make(block) if known is None else known
