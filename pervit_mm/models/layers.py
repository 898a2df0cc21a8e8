"""What surrounds the attention: stems, conditional position encoding, feed-forward network and the PerViT block."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..ops import place_tokens, take_tokens
from ..utils.errors import UserError, UserTypeError
from .attention import PeripheralAttention
from .position import BasePosition


def token_grid(images: Tensor, out_stride: int) -> tuple[int, int]:
    """Grid (H, W) in tokens of images ``(B, C, h, w)``. A token at the right or lower border may stick out."""
    h, w = images.shape[2:]
    return -(-h // out_stride), -(-w // out_stride)


def check_hidden(hidden: Tensor, images: Tensor, out_stride: int) -> Tensor:
    """Return ``hidden`` if it has one boolean for each token of ``images``, or raise UserError."""
    if not isinstance(hidden, Tensor):
        raise UserTypeError(f'hidden must be a boolean tensor (B, H, W), got a {type(hidden).__name__}')
    expected = (images.shape[0], *token_grid(images, out_stride))
    if hidden.dtype != torch.bool or tuple(hidden.shape) != expected:
        raise UserError(f'hidden must be boolean of shape (B, H, W) = {expected} for images of '
                        f'{tuple(images.shape)}, got {hidden.dtype} of {tuple(hidden.shape)}')
    return hidden


def spread_hidden(hidden: Tensor, x: Tensor, stride: int) -> Tensor:
    """Spread ``hidden`` ``(B, H, W)`` over ``x``, which has ``stride`` positions a token: ``(B, 1, h, w)``."""
    spread = hidden.repeat_interleave(stride, 1).repeat_interleave(stride, 2)
    return spread[:, None, :x.shape[2], :x.shape[3]]


def check_visible(norm: nn.Module, positions: int) -> None:
    """Raise UserError if a BatchNorm in training gets fewer than two positions."""
    if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.training and positions < 2:
        raise UserError(f'hidden leaves {positions} visible positions in the batch, and BatchNorm needs 2 in '
                        'training: hide fewer tokens')


def norm_visible(norm: nn.Module, x: Tensor, visible: Tensor) -> Tensor:
    """Apply a norm to the visible positions of a map only.

    Args:
        norm (nn.Module): A BatchNorm sees and changes only the visible positions, also for its running statistics.
            Any other module, such as Identity, sees hidden positions as zero.
        x (Tensor): ``(B, C, h, w)``.
        visible (Tensor): Boolean ``(B, 1, h, w)``.

    Returns:
        Tensor: ``(B, C, h, w)``. The caller must drop the values at hidden positions.
    """
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return norm(x * visible)
    rows, kept = x.permute(0, 2, 3, 1), visible[:, 0]
    check_visible(norm, int(kept.sum()))
    # Positions as a batch of maps of one pixel, as BatchNorm2d asks. As one transposed map of one column, torch's
    # backward on the CPU reads a contiguous gradient in the wrong order (seen in 2.14).
    normed = norm(rows[kept][:, :, None, None])[:, :, 0, 0]
    return torch.zeros_like(rows).masked_scatter(kept[..., None], normed.to(rows.dtype)).permute(0, 3, 1, 2)


class ConvStem(nn.Module):
    """3 x 3 convolutions of stride 2, each with norm and activation, then a 1 x 1 convolution.

    A side of n pixels gives ceil(n / out_stride) tokens.

    Args:
        in_channels (int): Channels of the image.
        channels (Sequence[int]): Output channels of the stride-2 convolutions; the last is the width of the tokens.
        norm_cfg (dict, optional): Norm after each stride-2 convolution. Defaults to None, which is ``dict(type='BN')``.
        act_cfg (dict, optional): Activation after each norm. Defaults to None, which is
            ``dict(type='ReLU', inplace=True)``.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], norm_cfg: dict | None = None,
                 act_cfg: dict | None = None) -> None:
        super().__init__()
        norm_cfg = norm_cfg or dict(type='BN')
        act_cfg = act_cfg or dict(type='ReLU', inplace=True)
        self.out_stride = 2**len(channels)
        self.layers = nn.ModuleList()
        for width_in, width in zip((in_channels, *channels[:-1]), channels):
            layer = nn.Sequential()
            layer.add_module('conv', nn.Conv2d(width_in, width, 3, stride=2, padding=1))
            layer.add_module('norm', build_norm_layer(norm_cfg, width)[1])
            layer.add_module('act', build_activation_layer(act_cfg))
            self.layers.append(layer)
        self.proj = nn.Conv2d(channels[-1], channels[-1], 1)

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Image to map.

        With ``hidden`` the pixels of hidden tokens influence no output. They are set to zero before the first
        convolution, hidden positions are set to zero after each layer, and BatchNorm sees only visible positions.

        Args:
            x (Tensor): ``(B, in_channels, h, w)``.
            hidden (Tensor, optional): Boolean ``(B, H, W)``, True for hidden tokens. Defaults to None.

        Returns:
            Tensor: ``(B, C, H, W)``; H is h / out_stride, rounded up. Hidden tokens hold the bias of the last layer.
        """
        if hidden is not None:
            return self._forward_masked(x, check_hidden(hidden, x, self.out_stride))
        for layer in self.layers:
            x = layer(x)
        return self.proj(x)

    def _forward_masked(self, x: Tensor, hidden: Tensor) -> Tensor:
        x = x.masked_fill(spread_hidden(hidden, x, self.out_stride), 0)  # a product with 0 would keep NaN
        stride = self.out_stride
        for layer in self.layers:
            x, stride = layer.conv(x), stride // 2
            visible = ~spread_hidden(hidden, x, stride)
            x = layer.act(norm_visible(layer.norm, x, visible)) * visible
        return self.proj(x)

    def fuse_norm(self) -> None:
        """Fold BatchNorm into the convolution before it, for inference. Norms without kept statistics stay."""
        for layer in self.layers:
            norm = layer.norm
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
                layer.conv = fuse_conv_bn_eval(layer.conv.eval(), layer.norm.eval())
                layer.norm = nn.Identity()


class PatchifyStem(nn.Module):
    """One convolution with kernel = stride, as in ViT (ablation).

    Sides that the stride does not divide are padded with zeros at the right and bottom, so that a side of n pixels
    gives ceil(n / out_stride) tokens, as the convolutional stem does.

    Args:
        in_channels (int): Channels of the image.
        embed_dims (int): Width of the tokens.
        out_stride (int): Side of a patch in pixels.
    """

    def __init__(self, in_channels: int, embed_dims: int, out_stride: int) -> None:
        super().__init__()
        self.out_stride = out_stride
        self.proj = nn.Conv2d(in_channels, embed_dims, out_stride, stride=out_stride)

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Image to map, as :meth:`ConvStem.forward`. Patches don't overlap, so zeros for hidden pixels are enough."""
        if hidden is not None:
            x = x.masked_fill(spread_hidden(check_hidden(hidden, x, self.out_stride), x, self.out_stride), 0)
        bottom, right = -x.shape[2] % self.out_stride, -x.shape[3] % self.out_stride
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        return self.proj(x)

    def fuse_norm(self) -> None:
        """Nothing to fold."""


class ConditionalPositionEncoding(nn.Module):
    """3 x 3 depthwise convolution over the map of tokens; no residual around it (paper: overall architecture).

    Args:
        embed_dims (int): Width C of the tokens.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims)

    def forward(self, x: Tensor, hw_shape: tuple[int, int], kept: Tensor | None = None) -> Tensor:
        """Tokens ``(B, N, C)`` of a grid (H, W) to the same shape.

        With ``kept`` ``(B, n)``, the numbers of the tokens that are there, ``(B, n, C)`` to the same shape. The missing
        ones count as zeros.
        """
        if kept is not None:
            whole = place_tokens(x, kept, hw_shape[0] * hw_shape[1])
            return take_tokens(self(whole, hw_shape), kept)
        b, n, c = x.shape
        # Tokens seen as a map are channels-last already: no copy on the way in or out.
        x = x.reshape(b, *hw_shape, c).permute(0, 3, 1, 2)
        return self.conv(x).permute(0, 2, 3, 1).reshape(b, n, c)


class FeedForward(nn.Module):
    """Linear C → hidden, activation, Linear hidden → C_next.

    MMCV's FFN has equal input and output widths and adds the identity itself. Here the output width may differ.

    Args:
        embed_dims (int): Input width C.
        feedforward_channels (int): Hidden width.
        out_dims (int): Output width.
        act_cfg (dict): Activation.
        drop_rate (float): Dropout rate after each of the two Linear layers. Defaults to 0.
    """

    def __init__(self, embed_dims: int, feedforward_channels: int, out_dims: int, act_cfg: dict,
                 drop_rate: float = 0.) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, feedforward_channels)
        self.act = build_activation_layer(act_cfg)
        self.fc2 = nn.Linear(feedforward_channels, out_dims)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(B, N, C)`` to ``(B, N, out_dims)``."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class PerViTBlock(nn.Module):
    """One block of PerViT.

    ::

        x ← x + DropPath( MPA( LN( CPE(x) ) ) )
        x ← shortcut(x) + DropPath( FFN( LN(x) ) )

    Args:
        embed_dims (int): Width C of the block.
        out_dims (int): Width of the next block; where it differs, the shortcut is a Linear.
        num_heads (int): Heads of the attention.
        position (BasePosition, optional): Makes log Φp, see :class:`PeripheralAttention`.
        window_size (tuple[int, int], optional): Window (h, w) in tokens; None attends globally. Defaults to None.
        mlp_ratio (float): Hidden width of the FFN over C. Defaults to 4.
        cpe (bool): Whether the conditional position encoding comes before the attention. Defaults to True.
        content (bool): Whether content takes part in attention. Defaults to True.
        qkv_bias (bool): Whether q, k, v have a bias. Defaults to False.
        drop_rate (float): Dropout rate of attention output and FFN. Defaults to 0.
        drop_path_rate (float): Stochastic depth rate of this block. Defaults to 0.
        norm_cfg (dict, optional): Defaults to None, which is ``dict(type='LN', eps=1e-6)``.
        act_cfg (dict, optional): Defaults to None, which is ``dict(type='GELU')``.
    """

    def __init__(self, embed_dims: int, out_dims: int, num_heads: int, position: BasePosition | None,
                 window_size: tuple[int, int] | None = None, mlp_ratio: float = 4., cpe: bool = True,
                 content: bool = True, qkv_bias: bool = False, drop_rate: float = 0.,
                 drop_path_rate: float = 0., norm_cfg: dict | None = None,
                 act_cfg: dict | None = None) -> None:
        super().__init__()
        norm_cfg = norm_cfg or dict(type='LN', eps=1e-6)
        act_cfg = act_cfg or dict(type='GELU')
        self.window_size = window_size
        self.cpe = ConditionalPositionEncoding(embed_dims) if cpe else None
        self.norm1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.attn = PeripheralAttention(embed_dims, num_heads, position, content, qkv_bias, drop_rate)
        self.norm2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.ffn = FeedForward(embed_dims, int(mlp_ratio * embed_dims), out_dims, act_cfg, drop_rate)
        self.shortcut = nn.Identity() if out_dims == embed_dims else nn.Linear(embed_dims, out_dims)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()

    def attention_input(self, x: Tensor, hw_shape: tuple[int, int], kept: Tensor | None = None) -> Tensor:
        """What the attention sees of ``x`` (B, N, C): LN(CPE(x))."""
        return self.norm1(x if self.cpe is None else self.cpe(x, hw_shape, kept))

    def forward(self, x: Tensor, hw_shape: tuple[int, int], log_position: Tensor | None = None,
                kept: Tensor | None = None) -> Tensor:
        """Run the block.

        Args:
            x (Tensor): Tokens ``(B, N, C)``.
            hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
            log_position (Tensor, optional): log Φp of the grid ``(nH, N, N)``, or of the window if the block has one.
                None stands for Φp = 1.
            kept (Tensor, optional): Numbers in the grid of the tokens of each image, ``(B, N)``, where some are
                dropped; then log Φp is ``(B, nH, N, N)``, see :func:`pervit_mm.ops.take_pairs`. Not for windows.
                Defaults to None, all tokens.

        Returns:
            Tensor: ``(B, N, out_dims)``.
        """
        y = self.attn(self.attention_input(x, hw_shape, kept), hw_shape, log_position, self.window_size)
        x = x + self.drop_path(y)
        return self.shortcut(x) + self.drop_path(self.ffn(self.norm2(x)))
