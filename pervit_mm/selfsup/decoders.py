"""From features back to pixels, or to another network's features."""
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmpretrain.models.utils import build_2d_sincos_position_embedding
from torch import Tensor, nn

from ..models import PerViT, PerViTBlock
from ..ops import peripheral_attention, take_tokens
from ..utils.errors import UserError
from .checks import check_counts


@MODELS.register_module()
class PixelShuffleDecoder(BaseModule):
    """One 1 x 1 convolution, then its channels spread over pixels: SimMIM's decoder for any number of channels.

    MMPretrain's ``SimMIMLinearDecoder`` is made for three. On gray images its loss would broadcast without a word.

    Args:
        in_channels (int): Channels of the features.
        encoder_stride (int): Pixels for each token, ``out_stride`` of the backbone.
        out_channels (int): Channels of the image. Defaults to 3.
        init_cfg (dict, optional): Defaults to None, torch's initialization.

    Raises:
        UserError: If a number is not positive.
    """

    def __init__(self, in_channels: int, encoder_stride: int, out_channels: int = 3,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        check_counts('PixelShuffleDecoder', in_channels=in_channels, encoder_stride=encoder_stride,
                     out_channels=out_channels)
        self.in_channels, self.encoder_stride, self.out_channels = in_channels, encoder_stride, out_channels
        self.conv = nn.Conv2d(in_channels, encoder_stride**2 * out_channels, 1)
        self.shuffle = nn.PixelShuffle(encoder_stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, in_channels, H, W)`` to an image ``(B, out_channels, H * stride, W * stride)``."""
        return self.shuffle(self.conv(x))


@MODELS.register_module()
class TokenDecoder(BaseModule):
    """Three Linear layers with GELU on each token, then a transposed convolution to its pixels: SiT's decoder.

    Args:
        in_channels (int): Width of the tokens.
        encoder_stride (int): Pixels for each token, ``out_stride`` of the backbone.
        out_channels (int): Channels of the image. Defaults to 3.
        init_cfg (dict, optional): Defaults to None: Linear layers from a truncated normal of standard deviation 0.02,
            as SiT's.

    Raises:
        UserError: If a number is not positive.
    """

    def __init__(self, in_channels: int, encoder_stride: int, out_channels: int = 3,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg or dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.))
        check_counts('TokenDecoder', in_channels=in_channels, encoder_stride=encoder_stride,
                     out_channels=out_channels)
        self.in_channels, self.encoder_stride, self.out_channels = in_channels, encoder_stride, out_channels
        layers = [layer for _ in range(3) for layer in (nn.Linear(in_channels, in_channels), nn.GELU())]
        self.mlp = nn.Sequential(*layers)
        self.to_pixels = nn.ConvTranspose2d(in_channels, out_channels, encoder_stride, stride=encoder_stride)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Tokens ``(B, N, C)`` to an image ``(B, out_channels, h, w)`` of ``size`` (h, w).

        A token at the right or lower border may stick out of the image, and is cut off there.
        """
        h, w = size
        grid = -(-h // self.encoder_stride), -(-w // self.encoder_stride)
        return self.to_pixels(self.mlp(x).transpose(1, 2).unflatten(2, grid))[:, :, :h, :w]


class VisibleTokenDecoder(BaseModule):
    """What decoders have in common that get the visible tokens alone.

    Hidden tokens are one learned token, told apart by fixed sine-cosine position embeddings. Blocks follow, then a
    LayerNorm and a Linear layer. There is no class token.

    Args:
        in_channels (int): Width of the encoder's tokens.
        encoder_stride (int): Pixels for each token, ``out_stride`` of the backbone.
        values (int): Number of values that are predicted for each token.
        img_size (int): Side of the square images in pixels. Defaults to 224.
        embed_dims (int): Width of the decoder. Defaults to 512.
        num_layers (int): Its blocks. Defaults to 8.
        num_heads (int): Heads of each. Defaults to 16.
        mlp_ratio (float): Hidden width of its feed-forward networks over ``embed_dims``. Defaults to 4.
        init_cfg (dict | list[dict], optional): Defaults to None, the authors' Xavier initialization of Linear layers.

    Raises:
        UserError: If a number is not positive, or ``embed_dims`` is no multiple of 4 and of ``num_heads``; while
            running, if the tokens are not those of such an image.
    """

    #: Of a Vision Transformer: PerViT's without Φp and without conditional position encoding.
    block_type = PerViTBlock

    def __init__(self, in_channels: int, encoder_stride: int, values: int, img_size: int = 224, embed_dims: int = 512,
                 num_layers: int = 8, num_heads: int = 16, mlp_ratio: float = 4.,
                 init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg or dict(type='Xavier', layer='Linear', distribution='uniform'))
        name = type(self).__name__
        check_counts(name, in_channels=in_channels, encoder_stride=encoder_stride, img_size=img_size,
                     embed_dims=embed_dims, num_layers=num_layers, num_heads=num_heads)
        if embed_dims % 4 or embed_dims % num_heads:
            raise UserError(f'embed_dims of {name} must be a multiple of 4 and of num_heads={num_heads}, got '
                            f'{embed_dims}')
        self.in_channels, self.encoder_stride = in_channels, encoder_stride
        side = -(-img_size // encoder_stride)
        self.hw_shape = side, side
        self.embed = nn.Linear(in_channels, embed_dims)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        position = build_2d_sincos_position_embedding(self.hw_shape, embed_dims)
        self.register_buffer('position', position[0], persistent=False)
        self.blocks = nn.ModuleList(
            self.block_type(embed_dims, embed_dims, num_heads, None, mlp_ratio=mlp_ratio, cpe=False, qkv_bias=True)
            for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dims, eps=1e-6)
        self.pred = nn.Linear(embed_dims, values)

    def init_weights(self) -> None:
        """Initialize by ``init_cfg``, and the mask token from a normal distribution of standard deviation 0.02."""
        first = not self.is_init
        super().init_weights()
        if first:
            nn.init.normal_(self.mask_token, std=0.02)

    def run_blocks(self, visible: Tensor, hidden: Tensor) -> Tensor:
        """Visible tokens ``(B, n, D)`` and hidden ones ``(B, N - n, D)``, one behind the other, through the blocks."""
        raise NotImplementedError

    def forward(self, x: Tensor, ids_restore: Tensor) -> Tensor:
        """Predict all tokens.

        Args:
            x (Tensor): Visible tokens ``(B, n, in_channels)``.
            ids_restore (Tensor): Where each token of the grid stands among the visible ones followed by the hidden
                ones, ``(B, N)``, see :class:`pervit_mm.selfsup.MAEPerViT`.

        Returns:
            Tensor: ``(B, N, values)`` in the order of the grid.
        """
        if ids_restore.shape[1] != len(self.position):
            raise UserError(f'img_size of {type(self).__name__} must be that of the images: they have '
                            f'{ids_restore.shape[1]} tokens, and the decoder has places for {len(self.position)}')
        position = self.position[ids_restore.argsort(dim=1)]
        n = x.shape[1]
        x = self.run_blocks(self.embed(x) + position[:, :n], self.mask_token + position[:, n:])
        return take_tokens(self.pred(self.norm(x)), ids_restore)


@MODELS.register_module()
class MAETokenDecoder(VisibleTokenDecoder):
    """From visible tokens to the pixels of all tokens: MAE's decoder (He et al. 2022) without a class token.

    Its blocks are those of a Vision Transformer over all tokens. MMPretrain's ``MAEPretrainDecoder`` takes its first
    token for a class token; an encoder without one would have each token one place off. A token's pixels are predicted
    row by row, channels last, as MMPretrain's ``MAEPretrainHead`` expects them.

    Args:
        in_channels (int): Width of the encoder's tokens.
        encoder_stride (int): Pixels for each token, ``out_stride`` of the backbone.
        out_channels (int): Channels of the image. Defaults to 3.
        **kwargs: ``img_size``, ``embed_dims``, ``num_layers``, ``num_heads``, ``mlp_ratio`` and ``init_cfg`` of
            :class:`VisibleTokenDecoder`.

    Raises:
        UserError: As :class:`VisibleTokenDecoder`.
    """

    def __init__(self, in_channels: int, encoder_stride: int, out_channels: int = 3, **kwargs) -> None:
        check_counts('MAETokenDecoder', encoder_stride=encoder_stride, out_channels=out_channels)
        super().__init__(in_channels, encoder_stride, encoder_stride**2 * out_channels, **kwargs)
        self.out_channels = out_channels

    def run_blocks(self, visible: Tensor, hidden: Tensor) -> Tensor:
        """As :meth:`VisibleTokenDecoder.run_blocks`: all tokens attend to all."""
        x = torch.cat([visible, hidden], dim=1)
        for block in self.blocks:
            x = block(x, self.hw_shape)
        return x


class PromptBlock(PerViTBlock):
    """Block of a Vision Transformer that changes hidden tokens only; they attend to visible ones and themselves."""

    def forward(self, hidden: Tensor, visible: Tensor) -> Tensor:
        """Hidden tokens ``(B, m, D)`` to the same shape, beside visible ones ``(B, n, D)``, which the block reads."""
        # As the authors have it, visible tokens are not normed: the encoder's last norm lies behind them.
        q, k, v = self.attn.heads(torch.cat([visible, self.norm1(hidden)], dim=1))
        y = peripheral_attention(q[:, :, visible.shape[1]:], k, v, None)
        hidden = hidden + self.attn.proj(y.transpose(1, 2).flatten(2))
        return hidden + self.ffn(self.norm2(hidden))


@MODELS.register_module()
class PromptTokenDecoder(VisibleTokenDecoder):
    """From visible tokens to features of all tokens: MILAN's decoder (Hou et al. 2022) without a class token.

    Its blocks change the hidden tokens only. So the encoder itself has to make what is said about visible tokens.

    Args:
        in_channels (int): Width of the encoder's tokens.
        encoder_stride (int): Pixels for each token, ``out_stride`` of the backbone.
        target_channels (int): Width of the features that are predicted, ``out_channels`` of the target generator.
        **kwargs: ``img_size``, ``embed_dims``, ``num_layers``, ``num_heads``, ``mlp_ratio`` and ``init_cfg`` of
            :class:`VisibleTokenDecoder`.

    Raises:
        UserError: As :class:`VisibleTokenDecoder`.
    """

    block_type = PromptBlock

    def __init__(self, in_channels: int, encoder_stride: int, target_channels: int, **kwargs) -> None:
        check_counts('PromptTokenDecoder', target_channels=target_channels)
        super().__init__(in_channels, encoder_stride, target_channels, **kwargs)
        self.target_channels = target_channels

    def run_blocks(self, visible: Tensor, hidden: Tensor) -> Tensor:
        """As :meth:`VisibleTokenDecoder.run_blocks`. The visible tokens come out as they went in."""
        for block in self.blocks:
            hidden = block(hidden, visible)
        return torch.cat([visible, hidden], dim=1)


def check_decoder(decoder: nn.Module, backbone: PerViT) -> None:
    """Raise UserError if a decoder makes other images than the backbone takes: losses would broadcast silently."""
    wanted = dict(in_channels=backbone.out_channels[-1], encoder_stride=backbone.out_stride,
                  out_channels=backbone.in_channels)
    for name, value in wanted.items():
        if getattr(decoder, name, value) != value:
            raise UserError(f'{name} of {type(decoder).__name__} must be {value}, as the backbone has it, got '
                            f'{getattr(decoder, name)}')
