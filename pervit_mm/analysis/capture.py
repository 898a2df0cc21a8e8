"""Recording what happens inside a model, block by block, during any forward."""
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from ..utils.errors import UserError
from .attention import normalize_attention
from .recorders import SUPPORTED, find_recorders


@dataclass
class BlockRecord:
    """What was recorded of one block in one forward. What was not asked for is None.

    Attributes:
        index (int): Number of the block, from 0.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W. Class tokens are not part of it.
        num_extra_tokens (int): Class and distillation tokens. They come first in ``raw_attention``.
        raw_attention (Tensor): Weights as the model multiplies them with ``raw_value``: ``(B, nH, N', N')`` with N'
            tokens including class tokens, or ``(B * windows, nH, n, n)`` for a Swin block of windows of n tokens.
        raw_value (Tensor): v in the same layout, ``(B, nH, N', d)`` or ``(B * windows, nH, n, d)``.
        window_tokens (Tensor): Number of the token at each place of each window, ``(windows, n)``; -1 for padding.
            None where attention is over the whole grid.
        log_position (Tensor): log Φp of PerViT, ``(nH, N, N)``, 0 without Φp. Minus infinity between tokens of
            different windows.
        scores (Tensor): s = q·k/√d of PerViT, ``(B, nH, N, N)``.
        query, key, value (Tensor): ``(B, nH, N, d)`` without class tokens.
        output (Tensor): Tokens after the block, ``(B, N, C)`` without class tokens.
        branches (tuple): ``((skip, branch), (skip, branch))`` of the attention and of the FFN, each ``(B, N, C)``.
        window_ids (Tensor): Number of the window of each token of the grid, ``(N,)``. None where attention is over the
            whole grid.
        has_position (bool): Whether ``log_position`` comes from a Φp. Without one it only separates windows.
        has_content (bool): Whether ``scores`` come from queries and keys, and are not zeros in their place.
    """
    index: int
    hw_shape: tuple[int, int] = (0, 0)
    num_extra_tokens: int = 0
    raw_attention: Tensor | None = field(default=None, repr=False)
    raw_value: Tensor | None = field(default=None, repr=False)
    window_tokens: Tensor | None = field(default=None, repr=False)
    log_position: Tensor | None = field(default=None, repr=False)
    scores: Tensor | None = field(default=None, repr=False)
    query: Tensor | None = field(default=None, repr=False)
    key: Tensor | None = field(default=None, repr=False)
    value: Tensor | None = field(default=None, repr=False)
    output: Tensor | None = field(default=None, repr=False)
    branches: tuple | None = field(default=None, repr=False)
    window_ids: Tensor | None = field(default=None, repr=False)
    has_position: bool = False
    has_content: bool = False

    @cached_property
    def attention(self) -> Tensor | None:
        """Φa between the tokens of the grid, ``(B, nH, N, N)``: without class tokens or padding, rows sum to one.

        Attention in windows is spread over the whole grid: it is 0 between tokens of different windows.
        """
        if self.raw_attention is None:
            return None
        if self.window_tokens is None:
            return normalize_attention(self.raw_attention, self.num_extra_tokens)
        return normalize_attention(spread_over_grid(self.raw_attention, self.window_tokens, self.hw_shape))

    def maps(self) -> dict[str, Tensor]:
        """The maps whose reach can be compared, with rows that sum to one.

        Returns:
            dict[str, Tensor]: ``attention`` Φa ``(B, nH, N, N)``; for a PerViT with Φp also ``position`` Φp
            ``(nH, N, N)``, and with both ``content`` Φc. Where one factor is missing, the other is Φa. Empty without
            recorded attention.
        """
        found = {} if self.attention is None else dict(attention=self.attention)
        if self.has_position and self.has_content:
            # Windows limit the content as they limit the attention.
            inside = self.scores.masked_fill(self.log_position == float('-inf'), float('-inf'))
            found['content'] = inside.softmax(dim=-1)
        if self.has_position:
            found['position'] = self.log_position.softmax(dim=-1)
        return found


def spread_over_grid(attention: Tensor, window_tokens: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """Write attention within windows into one map over the whole grid.

    Args:
        attention (Tensor): ``(B * windows, nH, n, n)``, windows of one image together.
        window_tokens (Tensor): Number of the token at each place of each window, ``(windows, n)``; -1 for padding.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.

    Returns:
        Tensor: ``(B, nH, N, N)``, 0 between tokens of different windows.
    """
    windows, n = window_tokens.shape
    tokens = hw_shape[0] * hw_shape[1]
    batch = attention.reshape(-1, windows, *attention.shape[1:])  # (B, windows, nH, n, n)
    # One more row and column takes what padding attends to and what attends to padding.
    spread = batch.new_zeros(batch.shape[0], batch.shape[2], tokens + 1, tokens + 1)
    for number, places in enumerate(window_tokens):
        spread[:, :, places[:, None], places[None, :]] = batch[:, number]
    return spread[:, :, :tokens, :tokens]


class Record:
    """What :func:`capture` recorded.

    Attributes:
        blocks (list): One :class:`BlockRecord` for each block, in the order in which the blocks ran; with ``each``,
            what it returned for them. Several forwards follow one another.
    """

    def __init__(self) -> None:
        self.blocks: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)


def find_backbone(model: nn.Module) -> nn.Module:
    """The backbone of a classifier, detector or segmentor, in DDP or not; any other model is its own backbone."""
    model = getattr(model, 'module', model)
    return getattr(model, 'backbone', model)


def run_uncompiled(model: nn.Module, undo: ExitStack) -> None:
    """Let no module of a model run compiled for a while: what was compiled before doesn't know of hooks.

    Args:
        model (nn.Module): Changed in place.
        undo (ExitStack): Gets what makes the modules as they were.
    """
    for module in model.modules():
        if module._compiled_call_impl is not None:
            undo.callback(setattr, module, '_compiled_call_impl', module._compiled_call_impl)
            module._compiled_call_impl = None


@contextmanager
def capture(model: nn.Module, attention: bool = True, features: bool = False, qkv: bool = False,
            branches: bool = False, each: Callable[[BlockRecord], Any] | None = None) -> Iterator[Record]:
    """Record attention and features of every block while a model runs.

    Hooks record, so the model computes what it always computes. They are removed at the end, also after an exception.
    Meanwhile no module of it runs compiled.
    Attention has no gradient. ``output`` and ``branches`` have the gradient of the model.

    Args:
        model (nn.Module): A classifier, detector, segmentor or bare backbone with PerViT, or with MMPretrain's
            VisionTransformer, DeiT, BEiT or Swin; ConvNeXt and ResNet for ``features`` alone.
        attention (bool): Whether to record attention. Defaults to True.
        features (bool): Whether to record the tokens after each block. Defaults to False.
        qkv (bool): Whether to record queries, keys and values. Defaults to False.
        branches (bool): Whether to record skip and branch of both halves of a block. It needs eval mode, because
            dropped paths would count as zero. Defaults to False.
        each (Callable, optional): Called with the record of each block as soon as the block is done. What it returns
            is kept in place of the record, so that memory holds one block. Defaults to None, which keeps the records.

    Yields:
        Record: Filled while the model runs.

    Raises:
        UserError: If the backbone is of another kind, has no tokens and attention is asked for, or runs on a sequence
            that is no grid.

    Examples:
        >>> import torch
        >>> from pervit_mm.analysis import attention_distance, capture
        >>> from pervit_mm.models import PerViT
        >>> model = PerViT('nano', img_size=28).eval()
        >>> with capture(model, each=lambda block: attention_distance(block.attention, block.hw_shape)) as record:
        ...     _ = model(torch.rand(2, 3, 28, 28))
        >>> [tuple(distance.shape) for distance in record.blocks]
        [(2, 4), (2, 4), (2, 4), (2, 4), (2, 4), (2, 4)]
    """
    backbone, record = find_backbone(model), Record()
    recorders = find_recorders(backbone)
    if not recorders:
        raise UserError(f'model must have one of the backbones {SUPPORTED}, got {type(backbone).__name__}')
    if (attention or qkv or branches) and not recorders[0].has_attention:
        raise UserError(f'model has the backbone {type(backbone).__name__}, which has no tokens that attend: ask for '
                        'features=True with attention=False, qkv=False and branches=False')

    def finish(block: BlockRecord) -> None:
        record.blocks.append(block if each is None else each(block))

    with ExitStack() as undo:
        run_uncompiled(model, undo)
        for index, recorder in enumerate(recorders):
            recorder.attach(undo, lambda index=index: BlockRecord(index), finish, attention=attention,
                            features=features, qkv=qkv, branches=branches)
        yield record
