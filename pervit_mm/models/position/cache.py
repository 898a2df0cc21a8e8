"""Φp kept between calls: it depends on grid and weights alone, so inference needs it once."""
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from .base import BasePosition, DistanceProjection, make_log_positions


def _size(grid: tuple[int, int], num_heads: int) -> int:
    """Bytes of log Φp of a grid, float32."""
    return 4 * num_heads * (grid[0] * grid[1])**2


class PositionCache:
    """log Φp of each block for the grids seen last, valid as long as the position weights are what they were.

    Detectors and segmentors meet images of several sizes, padded to few different grids. With ``max_bytes`` for all of
    these none is made twice. A block takes 4 bytes for each head and pair of tokens: 157 MB for 4 heads on 56 x 56
    tokens. What was used least recently goes first.

    The cache is used only while gradients are off and nothing is being traced or compiled. It compares all position
    weights exactly with a detached copy: version counters and data pointers miss EMA's swap and fused optimizers.
    Copies and pickles start empty.

    Args:
        max_bytes (int): Limit of all that is kept; what one call needs beyond it is computed at each call. Defaults to
            256 MiB.
    """

    def __init__(self, max_bytes: int = 256 * 2**20) -> None:
        self.max_bytes = max_bytes
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._weights: Tensor | None = None
        self._kept: OrderedDict[tuple, Tensor] = OrderedDict()

    @property
    def kept(self) -> Mapping[tuple[int, tuple[int, int]], Tensor]:
        """What is kept, for looking only: log Φp ``(nH, N, N)`` by (block, grid), least recently used first."""
        return MappingProxyType({key[:2]: log_position for key, log_position in self._kept.items()})

    def __deepcopy__(self, memo: dict) -> 'PositionCache':
        return type(self)(self.max_bytes)

    def __reduce__(self):
        return type(self), (self.max_bytes, )

    @staticmethod
    def usable() -> bool:
        """Whether Φp may be kept at this moment."""
        return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing())

    @torch.inference_mode(False)
    @torch.no_grad()
    def get(self, positions: list[BasePosition | None], grids: list[tuple[int, int]], num_heads: int,
            projection: DistanceProjection | None) -> list[Tensor | None]:
        """log Φp of all blocks, made anew where what is kept doesn't fit.

        It is made outside inference mode, so that what is kept may be used anywhere.

        Args:
            positions (list[BasePosition, optional]): Position module of each block.
            grids (list[tuple[int, int]]): Grid (H, W) of each block.
            num_heads (int): Heads of each block.
            projection (DistanceProjection, optional): Shared by the blocks.

        Returns:
            list[Tensor, optional]: log Φp of each block, ``(nH, N, N)``; None for a block that has to ask its module,
            as frozen ones and those beyond the limit do.
        """
        live = [i for i, module in enumerate(positions) if module is not None and not module.frozen]
        log_positions: list[Tensor | None] = [None] * len(positions)
        if not live:
            return log_positions
        modules = [positions[i] for i in live]
        self._check_weights(modules + ([] if projection is None else [projection]))
        room, missing = self.max_bytes, []
        for index in live:
            size = _size(grids[index], num_heads)
            if size > room:  # a later block may still fit, for example one with windows
                continue
            room -= size
            # A module's options count as well as its weights, and another module may have taken its place.
            key = (index, grids[index], positions[index], positions[index].cache_key())
            if key in self._kept:
                self._kept.move_to_end(key)
                log_positions[index] = self._kept[key]
            else:
                missing.append(key)
        # All that this call needs has room by the loop above, so only what earlier calls left is dropped here.
        new = sum(_size(grid, num_heads) for _, grid, *_ in missing)
        while new + sum(_size(grid, num_heads) for _, grid, *_ in self._kept) > self.max_bytes:
            self._kept.popitem(last=False)
        made = make_log_positions([key[2] for key in missing], [key[1] for key in missing], projection)
        for key, log_position in zip(missing, made):
            log_positions[key[0]] = self._kept[key] = log_position
        return log_positions

    def _check_weights(self, modules: list[nn.Module]) -> None:
        """Drop all that is kept unless every weight equals the copy that it was made from."""
        tensors = [t.detach().reshape(-1) for m in modules for t in (*m.parameters(), *m.buffers())]
        # A user's own module may have no weights.
        weights = torch.cat(tensors) if tensors else torch.empty(0)
        made_from = self._weights
        # torch.equal is False for NaN, so broken weights are never taken for those that log Φp was made from.
        if (made_from is None or made_from.dtype != weights.dtype or made_from.device != weights.device
                or not torch.equal(made_from, weights)):
            self.clear()
            self._weights = weights
