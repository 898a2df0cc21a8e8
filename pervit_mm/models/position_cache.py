"""Φp kept between calls: it depends on grid and weights alone, so inference needs it once."""
from collections import OrderedDict

import torch
from torch import Tensor, nn

from .deploy import FrozenPosition
from .position import DistanceProjection, log_position_terms


def _size(grid: tuple[int, int], num_heads: int) -> int:
    """Bytes of log Φp of a grid, float32."""
    return 4 * num_heads * (grid[0] * grid[1])**2


class PositionCache:
    """log Φp of each block for the grids seen last, valid as long as the position weights are what they were.

    Images of several sizes, as detectors and segmentors meet them, are padded to few different grids: with
    ``max_bytes`` for all of these none is made twice. 4 bytes for each head and pair of tokens, so 157 MB for a block
    of 4 heads on 56 x 56 tokens; what was used least recently goes first.

    Only used while gradients are off and nothing is being traced or compiled. Validity is an exact comparison with a
    detached copy of all position weights: version counters and data pointers miss EMA's swap and fused optimizers.
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
        self._terms: OrderedDict[tuple, Tensor] = OrderedDict()

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
    def get(self, positions: list[nn.Module | None], grids: list[tuple[int, int]], num_heads: int,
            projection: DistanceProjection | None) -> list[Tensor | None]:
        """Terms of all blocks, made anew where the kept ones don't fit.

        Built outside inference mode, so that what is kept may be used anywhere.

        Args:
            positions (list[nn.Module, optional]): Position module of each block.
            grids (list[tuple[int, int]]): Grid (H, W) of each block.
            num_heads (int): Heads of each block.
            projection (DistanceProjection, optional): Shared by the blocks.

        Returns:
            list[Tensor, optional]: log Φp of each block, ``(nH, N, N)``; None for a block that has to ask its module,
            as frozen ones and those beyond the byte cap do.
        """
        live = [i for i, m in enumerate(positions) if m is not None and not isinstance(m, FrozenPosition)]
        terms: list[Tensor | None] = [None] * len(positions)
        if not live:
            return terms
        modules = [positions[i] for i in live]
        self._check_weights(modules + ([] if projection is None else [projection]))
        room, missing = self.max_bytes, []
        for index in live:
            size = _size(grids[index], num_heads)
            if size > room:  # a block behind it, of windows say, may be small enough
                continue
            room -= size
            # A module's options count as well as its weights, and it may have been replaced by another.
            key = (index, grids[index], positions[index], positions[index].extra_repr())
            if key in self._terms:
                self._terms.move_to_end(key)
                terms[index] = self._terms[key]
            else:
                missing.append(key)
        # The terms of this call fit, by the above, so those that go are of earlier ones.
        new = sum(_size(grid, num_heads) for _, grid, *_ in missing)
        while new + sum(_size(grid, num_heads) for _, grid, *_ in self._terms) > self.max_bytes:
            self._terms.popitem(last=False)
        made = log_position_terms([key[2] for key in missing], [key[1] for key in missing], projection)
        for key, term in zip(missing, made):
            terms[key[0]] = self._terms[key] = term
        return terms

    def _check_weights(self, modules: list[nn.Module]) -> None:
        """Drop all terms unless every weight equals the copy that they were made from."""
        tensors = [t.detach().reshape(-1) for m in modules for t in (*m.parameters(), *m.buffers())]
        # A module of someone's own may be without weights.
        weights = torch.cat(tensors) if tensors else torch.empty(0)
        kept = self._weights
        # torch.equal is False for NaN, so broken weights are never taken for kept ones.
        if (kept is None or kept.dtype != weights.dtype or kept.device != weights.device
                or not torch.equal(kept, weights)):
            self.clear()
            self._weights = weights
