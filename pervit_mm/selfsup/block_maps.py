"""What attention works with in a forward that is trained on: queries, keys, log Φp, and what the heads give."""
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor

from ..analysis.capture import run_uncompiled
from ..models import PerViT
from ..ops import without_autocast
from ..ops.attention import content_scores
from ..utils.errors import UserError


@dataclass
class BlockMaps:
    """What was recorded of one block in one forward. All of it has the gradient of the forward.

    Attributes:
        index (int): Number of the block, from 0.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
        log_position (Tensor, optional): log Φp ``(nH, N, N)``; None without Φp.
        query, key (Tensor, optional): ``(B, nH, N, d)``; None if they were not asked for.
        output (Tensor, optional): attention·v, ``(B, nH, N, d)``; None if it was not asked for.
    """

    index: int
    hw_shape: tuple[int, int]
    log_position: Tensor | None = None
    query: Tensor | None = None
    key: Tensor | None = None
    output: Tensor | None = None

    def scores(self, heads: Sequence[int] | slice = slice(None)) -> Tensor:
        """q·kᵀ/√d ahead of the softmax, in float32.

        Args:
            heads (Sequence[int] | slice): Which heads. Defaults to all. No product is made for the others.

        Returns:
            Tensor: ``(B, heads, N, N)``.
        """
        heads = heads if isinstance(heads, slice) else list(heads)
        with without_autocast(self.query.device):
            return content_scores(self.query[:, heads].float(), self.key[:, heads].float())


def check_content(backbone: PerViT, index: int) -> None:
    """Raise UserError unless a block attends globally and by content."""
    block = backbone.blocks[index]
    if not block.attn.content or block.window_size is not None:
        raise UserError(f'block {index} of the backbone must attend globally and by content to have a map q·k over '
                        f'the grid, got content={block.attn.content} and window_size={block.window_size}: leave '
                        'window_size and content of the backbone out, or choose other blocks')


@contextmanager
def record_blocks(backbone: PerViT, content: Sequence[int] = (), output: Sequence[int] = ()) -> Iterator[
        list[BlockMaps]]:
    """Record blocks of each forward of a PerViT.

    Hooks keep what the forward makes anyway. So attention stays on its fast path, and nothing is computed twice. The
    scores of a block are made only where :meth:`BlockMaps.scores` is called. Meanwhile the backbone runs uncompiled.

    Args:
        backbone (PerViT): The backbone.
        content (Sequence[int]): Blocks whose queries and keys are kept. Defaults to none.
        output (Sequence[int]): Blocks whose attention·v is kept. Defaults to none.

    Yields:
        list[BlockMaps]: One for each block in the order in which they run; several forwards follow one another. Φp is
        part of each.

    Raises:
        UserError: If a block of ``content`` has no queries and keys, or attends within windows.
    """
    for index in content:
        check_content(backbone, index)
    records: list[BlockMaps] = []
    with ExitStack() as undo:
        run_uncompiled(backbone, undo)
        for index, block in enumerate(backbone.blocks):

            def begin(block, args, index=index) -> None:
                _, hw_shape, log_position, kept = args
                if kept is not None:
                    raise UserError('backbone must keep all tokens for losses on its maps or Φp, and '
                                    'MAEPerViT drops some: take PerViT or MaskTokenPerViT')
                records.append(BlockMaps(index, tuple(hw_shape), log_position))

            undo.callback(block.register_forward_pre_hook(begin).remove)
            heads = block.attn.num_heads
            if index in content:

                def keep_qk(_, args, out, heads=heads) -> None:
                    q, k, _ = out.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
                    records[-1].query, records[-1].key = q, k

                undo.callback(block.attn.qkv.register_forward_hook(keep_qk).remove)
            if index in output:

                def keep_output(_, args, heads=heads) -> None:
                    records[-1].output = args[0].unflatten(-1, (heads, -1)).transpose(1, 2)

                undo.callback(block.attn.proj.register_forward_pre_hook(keep_output).remove)
        yield records
