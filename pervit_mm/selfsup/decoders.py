"""From features back to pixels."""
from collections.abc import Sequence

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..models import PerViT
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
        init_cfg (dict, optional): Defaults to None, torch's initialization.

    Raises:
        UserError: If a number is not positive.
    """

    def __init__(self, in_channels: int, encoder_stride: int, out_channels: int = 3,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
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


def check_decoder(decoder: nn.Module, backbone: PerViT) -> None:
    """Raise UserError if a decoder makes other images than the backbone takes: losses would broadcast silently."""
    wanted = dict(in_channels=backbone.out_channels[-1], encoder_stride=backbone.out_stride,
                  out_channels=backbone.in_channels)
    for name, value in wanted.items():
        if getattr(decoder, name, value) != value:
            raise UserError(f'{name} of {type(decoder).__name__} must be {value}, as the backbone has it, got '
                            f'{getattr(decoder, name)}')
