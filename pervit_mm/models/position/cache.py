"""log Φp kept between calls: it depends on grid and weights alone, so inference needs to make it only once."""
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from threading import RLock
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ...ops import is_transformed
from .base import BasePosition, DistanceProjection, make_log_positions


def _size(grid: tuple[int, int], num_heads: int) -> int:
    """Bytes of log Φp of a grid, float32."""
    return 4 * num_heads * (grid[0] * grid[1])**2


def fitting_blocks(blocks: Iterable[int], grids: Sequence[tuple[int, int]], num_heads: int,
                   max_bytes: int) -> list[int]:
    """Blocks whose log Φp fits into a number of bytes together.

    Args:
        blocks (Iterable[int]): Block indices, in the order in which they take room.
        grids (Sequence[tuple[int, int]]): Grid (H, W) of each block of the network in tokens.
        num_heads (int): Heads of each block.
        max_bytes (int): The limit.

    Returns:
        list[int]: Those of ``blocks`` that fit. One that does not is left out, and a later one, for example one with
        windows, may still fit.
    """
    fitting = []
    for index in blocks:
        size = _size(grids[index], num_heads)
        if size <= max_bytes:
            max_bytes -= size
            fitting.append(index)
    return fitting


def _is_captured() -> bool:
    """Whether a CUDA graph is being captured, in which nothing may wait for the GPU, as a comparison does."""
    # torch for the CPU alone knows no capture, and raises an error.
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


class PositionCache:
    """log Φp of each block for the grids seen last, valid as long as the position weights are what they were.

    Detectors and segmentors meet images of several sizes, padded to few different grids. If all these grids fit into
    ``max_bytes``, log Φp of none is made twice. A block takes 4 bytes for each head and pair of tokens: 157 MB for 4
    heads on 56 x 56 tokens. The entries that were used least recently are dropped first.

    The cache is used only while gradients are off and nothing is being traced, compiled, transformed by ``torch.func``
    or captured as a CUDA graph. A captured graph makes log Φp again at each replay, from the weights of that time. The
    cache compares all position weights exactly with a detached copy, because version counters and data
    pointers miss EMA's swap and fused optimizers. Copies and pickles start empty.

    Args:
        max_bytes (int): Limit in bytes of all that is kept. What one call needs beyond it is computed at each call.
            Defaults to 256 MiB.
    """

    def __init__(self, max_bytes: int = 256 * 2**20) -> None:
        self.max_bytes = max_bytes
        self._lock = RLock()  # several threads may serve one model
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._weights: Tensor | None = None
            self._kept: OrderedDict[tuple, Tensor] = OrderedDict()

    @property
    def kept(self) -> Mapping[tuple[int, tuple[int, int]], Tensor]:
        """What is kept, read-only: log Φp ``(nH, N, N)`` by (block, grid), least recently used first."""
        return MappingProxyType({key[:2]: log_position for key, log_position in self._kept.items()})

    def __deepcopy__(self, memo: dict) -> 'PositionCache':
        return type(self)(self.max_bytes)

    def __reduce__(self):
        return type(self), (self.max_bytes, )

    @staticmethod
    def usable() -> bool:
        """Whether the cache may be used now: no gradients, and no trace, compilation, transform or CUDA graph."""
        return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()
                    or is_transformed() or _is_captured())

    @torch.inference_mode(False)
    @torch.no_grad()
    def get(self, positions: list[BasePosition | None], grids: list[tuple[int, int]], num_heads: int,
            projection: DistanceProjection | None) -> list[Tensor | None]:
        """Return log Φp of all blocks, and make it where no kept one is valid.

        It is made outside inference mode, so that what is kept may be used in any mode.

        Args:
            positions (list[BasePosition, optional]): Position module of each block.
            grids (list[tuple[int, int]]): Grid (H, W) of each block.
            num_heads (int): Heads of each block.
            projection (DistanceProjection, optional): Shared by the blocks.

        Returns:
            list[Tensor, optional]: log Φp of each block, ``(nH, N, N)``. None for a block without Φp, with frozen Φp,
            or beyond the limit: the last two have to ask their module.
        """
        live = [i for i, module in enumerate(positions) if module is not None and not module.frozen]
        log_positions: list[Tensor | None] = [None] * len(positions)
        if not live:
            return log_positions
        modules = [positions[i] for i in live]
        with self._lock:
            self._check_weights(modules + ([] if projection is None else [projection]))
            self._fill(log_positions, live, positions, grids, num_heads, projection)
        return log_positions

    def _fill(self, log_positions: list, live: list[int], positions: list, grids: list, num_heads: int,
              projection: DistanceProjection | None) -> None:
        """Put log Φp of the blocks ``live`` into a list, as far as it fits."""
        missing = []
        for index in fitting_blocks(live, grids, num_heads, self.max_bytes):
            # The key has the module's options and the module itself, because either may have been changed.
            key = (index, grids[index], positions[index], positions[index].cache_key())
            if key in self._kept:
                self._kept.move_to_end(key)
                log_positions[index] = self._kept[key]
            else:
                missing.append(key)
        # There is room for all that this call keeps, so this drops only entries of earlier calls.
        new = sum(_size(grid, num_heads) for _, grid, *_ in missing)
        while new + sum(_size(grid, num_heads) for _, grid, *_ in self._kept) > self.max_bytes:
            self._kept.popitem(last=False)
        made = make_log_positions([key[2] for key in missing], [key[1] for key in missing], projection)
        for key, log_position in zip(missing, made):
            log_positions[key[0]] = self._kept[key] = log_position

    def _check_weights(self, modules: list[nn.Module]) -> None:
        """Drop all that is kept unless every weight equals the copy from which it was made."""
        tensors = [t.detach().reshape(-1) for m in modules for t in (*m.parameters(), *m.buffers())]
        # A user's own module may have no weights.
        weights = torch.cat(tensors) if tensors else torch.empty(0)
        made_from = self._weights
        # torch.equal is False for NaN, so broken weights never count as equal to the copy.
        if (made_from is None or made_from.dtype != weights.dtype or made_from.device != weights.device
                or not torch.equal(made_from, weights)):
            self.clear()
            self._weights = weights
