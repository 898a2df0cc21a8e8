"""From features back to pixels."""
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.errors import UserError


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
        for name, value in (('in_channels', in_channels), ('encoder_stride', encoder_stride),
                            ('out_channels', out_channels)):
            if type(value) is not int or value < 1:
                raise UserError(f'{name} of PixelShuffleDecoder must be a positive integer, got {value!r}')
        self.conv = nn.Conv2d(in_channels, encoder_stride**2 * out_channels, 1)
        self.shuffle = nn.PixelShuffle(encoder_stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, in_channels, H, W)`` to an image ``(B, out_channels, H * stride, W * stride)``."""
        return self.shuffle(self.conv(x))
