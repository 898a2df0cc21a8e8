"""Hooks on one block of a network, and what they put into a record."""
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from ..utils.errors import UserError


def is_a(module: nn.Module, *names: str) -> bool:
    """Whether a class of one of these names is among the classes of a module."""
    return any(base.__name__ in names for base in type(module).__mro__)


class BlockRecorder:
    """Records one block. Derived classes say where its attention is seen.

    Args:
        backbone (nn.Module): The backbone that the block belongs to.
        block (nn.Module): The block. Its first argument is its input.
    """

    has_attention = True

    def __init__(self, backbone: nn.Module, block: nn.Module) -> None:
        self.backbone, self.block = backbone, block
        self.record: Any = None  # of the forward that is under way
        self.input: Tensor | None = None
        self.attended: Tensor | None = None  # what the attention adds to the input

    def attach(self, undo: ExitStack, start: Callable[[], Any], finish: Callable[[Any], None], *, attention: bool,
               features: bool, qkv: bool, branches: bool) -> None:
        """Put hooks on the block.

        Args:
            undo (ExitStack): Gets what takes the hooks off again.
            start (Callable): Makes an empty record, at the start of a forward.
            finish (Callable): Takes the record at the end of a forward.
            attention, features, qkv, branches (bool): What to record, see :func:`pervit_mm.analysis.capture`.
        """

        def begin(_, args):
            self.record, self.input, self.attended = start(), args[0], None
            self.record.num_extra_tokens = getattr(self.backbone, 'num_extra_tokens', 0)
            self.see_grid(args)

        def end(_, args, output):
            record, self.record = self.record, None
            self.check_grid(record, output)
            if features:
                record.output = self.as_tokens(record, output)
            if branches:
                record.branches = self.split_branches(record, output)
            self.input = self.attended = None
            finish(record)

        self._undo = undo
        self.on_start(self.block, begin)
        if attention or qkv:
            self.watch_attention(attention, qkv)
        if branches:
            self.watch_branches()
        self.on_end(self.block, end)

    def on_start(self, module: nn.Module, hook: Callable) -> None:
        """Call ``hook(module, args)`` before a module runs."""
        self._undo.callback(module.register_forward_pre_hook(hook).remove)

    def on_end(self, module: nn.Module, hook: Callable) -> None:
        """Call ``hook(module, args, output)`` after a module has run."""
        self._undo.callback(module.register_forward_hook(hook).remove)

    def see_grid(self, args: tuple) -> None:
        """Write the grid into the record, if the arguments of the block tell it."""

    def watch_attention(self, attention: bool, qkv: bool) -> None:
        """Put hooks on the attention."""
        raise NotImplementedError(f'{type(self).__name__} must say where the attention is seen')

    def watch_branches(self) -> None:
        """Put hooks where the branches are seen. Here: the output of ``block.attn``, times BEiT's scale."""

        def see(_, args, output):
            scale = getattr(self.block, 'gamma_1', None)
            self.attended = output if scale is None else scale * output

        self.on_end(self.block.attn, see)

    def skip_of_ffn(self, middle: Tensor) -> Tensor:
        """What the FFN is added to; ``middle`` is the sum behind the attention."""
        return middle

    def as_tokens(self, record: Any, output: Tensor) -> Tensor:
        """Tokens ``(B, N, C)`` of the grid."""
        return output[:, record.num_extra_tokens:]

    def check_grid(self, record: Any, output: Tensor) -> None:
        """Raise UserError if the tokens are not those of the grid, as in masked pre-training."""
        tokens, (h, w) = output.shape[1] - record.num_extra_tokens, record.hw_shape
        if tokens != h * w:
            raise UserError(f'model runs {type(self.block).__name__} on {tokens} tokens, which are no {h} x {w} grid: '
                            'record a forward in which no token is left out')

    def split_branches(self, record: Any, output: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Skip and branch of both halves, from the input, what the attention adds, and the output."""
        if self.block.training:
            raise UserError('branches=True needs a model in eval mode, because dropped paths would count as zero: call '
                            'model.eval() first')
        skip = self.skip_of_ffn(self.input + self.attended)
        return tuple(tuple(self.as_tokens(record, x) for x in pair)
                     for pair in ((self.input, self.attended), (skip, output - skip)))

    def keep_qkv(self, q: Tensor | None, k: Tensor | None, v: Tensor) -> None:
        """Write q, k, v ``(B, nH, N', d)`` without class tokens into the record."""
        extra = self.record.num_extra_tokens
        self.record.query, self.record.key, self.record.value = (
            None if x is None else x[:, :, extra:] for x in (q, k, v))
