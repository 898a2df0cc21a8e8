"""How each kind of block is recorded: PerViT's own, and those of MMPretrain and its sister toolboxes.

A recorder knows where the attention weights of a block can be seen. Classes are known by their names, so that no
toolbox has to be installed.
"""
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import PerViTBlock
from ..ops.window import partition, place_in_windows
from ..utils.errors import UserError
from .block_recorder import BlockRecorder, is_a

#: What :func:`pervit_mm.analysis.capture` can record, for messages.
SUPPORTED = ("PerViT, MMPretrain's VisionTransformer, DeiT, BEiT and Swin, and, for features alone, its ConvNeXt and "
             'ResNet')


def project_qkv(attn: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v ``(B, nH, N, d)`` of an attention of MMPretrain from its input ``(B, N, C)``.

    The projection is not called as a module, because BEiT and Swin V2 don't call it so either: their key has no bias.
    """
    bias = attn.qkv.bias
    if getattr(attn, 'q_bias', None) is not None:
        bias = torch.cat((attn.q_bias, torch.zeros_like(attn.v_bias), attn.v_bias))
    qkv = F.linear(x, attn.qkv.weight, bias)
    return qkv.reshape(*x.shape[:2], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


class PerViTRecorder(BlockRecorder):
    """Records PerViT's block through its seam: the attention writes its maps out itself."""

    def see_grid(self, args: tuple) -> None:
        """The grid is the second argument."""
        self.record.hw_shape = tuple(args[1])
        if self.block.window_size is not None:
            self.record.window_ids, _ = place_in_windows(args[1], self.block.window_size, args[0].device)

    def watch_attention(self, attention: bool, qkv: bool) -> None:
        """Write out the maps of the input that the attention just saw."""

        @torch.no_grad()
        def see(attn, args, output):
            record = self.record
            if attention:
                maps = attn.attention_maps(*args)[1]
                record.raw_attention, record.scores = maps['attention'], maps['scores']
                record.log_position, record.has_position = maps['log_position'], args[2] is not None
                record.has_content = attn.content
            else:  # without maps, whose memory grows with the tokens squared
                maps = dict(zip(('query', 'key', 'value'), attn.heads(args[0])))
            record.raw_value = maps['value']
            if qkv:
                self.keep_qkv(maps['query'], maps['key'], maps['value'])

        self.on_end(self.block.attn, see)

    def watch_branches(self) -> None:
        """As for other blocks, and the shortcut, which is a Linear where the width changes."""
        super().watch_branches()

        def see(_, args, output):
            self.skip = output

        self.on_end(self.block.shortcut, see)

    def skip_of_ffn(self, middle: Tensor) -> Tensor:
        """Output of the shortcut."""
        return self.skip


class ViTRecorder(BlockRecorder):
    """Records a block of MMPretrain's VisionTransformer, DeiT or BEiT."""

    def attach(self, undo: ExitStack, start: Callable, finish: Callable, **what: bool) -> None:
        """The patch embedding, which runs first, tells the grid."""

        def see(_, args, output):
            self.hw_shape = tuple(output[1])

        undo.callback(self.backbone.patch_embed.register_forward_hook(see).remove)
        super().attach(undo, start, finish, **what)

    def see_grid(self, args: tuple) -> None:
        """The grid of the patch embedding."""
        self.record.hw_shape = self.hw_shape

    def watch_attention(self, attention: bool, qkv: bool) -> None:
        """Stand between the module and torch's fused attention, which keeps no weights; BEiT's weights are seen."""
        attn = self.block.attn

        @torch.no_grad()
        def see_input(_, args, output):
            q, k, v = project_qkv(attn, args[0])
            self.record.raw_value = v
            if qkv:
                self.keep_qkv(q, k, v)

        self.on_end(attn, see_input)
        if not attention:
            return
        if is_a(attn, 'BEiTAttention'):
            self.on_start(attn.attn_drop, self.see_weights)
            return
        fused = attn.scaled_dot_product_attention
        # With qk_scale, MMPretrain divides by the scale that it should multiply with. The model counts.
        known = fused.keywords if isinstance(fused, partial) else {}
        divisor = known.get('scale', known.get('divisor'))
        attn.scaled_dot_product_attention = partial(self._attend, fused, divisor=divisor)
        self._undo.callback(setattr, attn, 'scaled_dot_product_attention', fused)

    def see_weights(self, _, args: tuple) -> None:
        """Keep the weights, which are the first argument."""
        self.record.raw_attention = args[0].detach()

    def _attend(self, fused: Callable, q: Tensor, k: Tensor, v: Tensor, *args, divisor: float | None,
                **kwargs) -> Tensor:
        """Attend as the model does, and keep the weights of the same q and k."""
        with torch.no_grad():
            scores = q @ k.transpose(-2, -1) / (divisor or q.shape[-1]**0.5)
            self.record.raw_attention = scores.softmax(dim=-1)
        return fused(q, k, v, *args, **kwargs)


class SwinRecorder(BlockRecorder):
    """Records a block of Swin, whose attention stays within windows that may be shifted."""

    def see_grid(self, args: tuple) -> None:
        """The grid is the second argument, and gives the windows."""
        self.record.hw_shape = tuple(args[1])
        attn = self.block.attn
        shift = attn.shift_size
        if min(args[1]) == attn.window_size and not getattr(attn, 'pad_small_map', True):
            shift = 0
        window = attn.window_size if isinstance(attn.window_size, int) else attn.window_size[0]
        self.record.window_tokens = number_windows(tuple(args[1]), window, shift)
        self.record.window_ids = shifted_window_ids(self.record.window_tokens, tuple(args[1]), shift)

    def watch_attention(self, attention: bool, qkv: bool) -> None:
        """The weights are what the softmax gives."""
        attn = self.block.attn.w_msa

        @torch.no_grad()
        def see_input(_, args, output):
            q, k, v = project_qkv(attn, args[0])
            self.record.raw_value = v
            if qkv:
                self.keep_qkv(*(self._to_grid(x) for x in (q, k, v)))

        def see_weights(_, args, output):
            self.record.raw_attention = output.detach()

        self.on_end(attn, see_input)
        if attention:
            self.on_end(attn.softmax, see_weights)

    def watch_branches(self) -> None:
        """Swin V2 norms what the attention gives, so its branches are not seen here."""
        if is_a(self.block, 'SwinBlockV2'):
            raise UserError('branches=True is not supported for Swin V2, whose norms come behind its branches')
        super().watch_branches()

    def _to_grid(self, x: Tensor) -> Tensor:
        """Windows ``(B * windows, nH, n, d)`` to the grid, ``(B, nH, N, d)``."""
        places = self.record.window_tokens
        x = x.reshape(-1, places.shape[0], *x.shape[1:]).transpose(1, 2).flatten(2, 3)  # (B, nH, windows * n, d)
        real = places.flatten() >= 0
        out = x.new_empty(*x.shape[:2], int(real.sum()), x.shape[-1])
        out[:, :, places.flatten()[real]] = x[:, :, real]
        return out


class MapRecorder(BlockRecorder):
    """Records a block of a convolutional network, which has maps and no attention."""

    has_attention = False

    def check_grid(self, record: Any, output: Tensor) -> None:
        """The map is its own grid."""
        record.hw_shape = tuple(output.shape[2:])

    def as_tokens(self, record: Any, output: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, N, C)``."""
        return output.flatten(2).transpose(1, 2)


def number_windows(hw_shape: tuple[int, int], window: int, shift: int) -> Tensor:
    """Number of the token at each place of each of Swin's windows.

    Args:
        hw_shape (tuple[int, int]): Grid (H, W) in tokens. It is padded at the right and bottom to whole windows.
        window (int): Side of a window in tokens.
        shift (int): Tokens by which the padded grid is rolled up and to the left.

    Returns:
        Tensor: ``(windows, window * window)``; -1 for padding.
    """
    h, w = hw_shape
    numbers = F.pad(torch.arange(h * w).reshape(h, w), (0, -w % window, 0, -h % window), value=-1)
    rolled = numbers.roll((-shift, -shift), dims=(0, 1))
    return partition(rolled[None, :, :, None], (window, window))[:, :, 0]


def shifted_window_ids(window_tokens: Tensor, hw_shape: tuple[int, int], shift: int) -> Tensor:
    """Number of the part of the map that each token attends within, ``(N,)``.

    A shifted window at the border holds tokens from opposite sides of the map, which Swin keeps apart.
    """
    h, w = hw_shape
    ids = torch.zeros(h * w, dtype=torch.long)
    for number, places in enumerate(window_tokens):
        ids[places[places >= 0]] = 4 * number
    rows, cols = torch.arange(h) < shift, torch.arange(w) < shift  # rolled to the other side
    return ids + (2 * rows[:, None] + cols[None, :].long()).flatten()


def find_recorders(backbone: nn.Module) -> list[BlockRecorder]:
    """A recorder for each block of a backbone, in the order of the blocks; empty for backbones of other kinds.

    Args:
        backbone (nn.Module): The backbone.

    Returns:
        list[BlockRecorder]: All of one kind.
    """
    found: list[BlockRecorder] = []
    for module in backbone.modules():
        attn = getattr(module, 'attn', None)
        if isinstance(module, PerViTBlock):
            found.append(PerViTRecorder(backbone, module))
        elif is_a(module, 'TransformerEncoderLayer', 'DeiT3TransformerEncoderLayer') and (
                is_a(attn, 'BEiTAttention') or hasattr(attn, 'scaled_dot_product_attention')):
            found.append(ViTRecorder(backbone, module))
        elif attn is not None and is_a(getattr(attn, 'w_msa', attn), 'WindowMSA', 'WindowMSAV2'):
            found.append(SwinRecorder(backbone, module))
        elif is_a(module, 'ConvNeXtBlock', 'BasicBlock', 'Bottleneck'):
            found.append(MapRecorder(backbone, module))
    return found
