"""From maps of one resolution to a feature pyramid."""
import math
from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.errors import UserError


@MODELS.register_module()
class PerViTLayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map, at each position separately.

    Args:
        num_features (int): Channels C.
        eps (float): Added to the variance. Defaults to 1e-6.
    """

    def __init__(self, num_features: int, eps: float = 1e-6) -> None:
        super().__init__(num_features, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Norm ``(B, C, H, W)``."""
        return F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias,
                            self.eps).permute(0, 3, 1, 2)


def scale_layers(channels: int, in_stride: int, out_stride: int, norm_cfg: dict) -> list[nn.Module]:
    """Layers that bring a map from one stride to another.

    A finer map is made by transposed convolutions of stride 2, with norm and GELU between them. Each halves the
    channels, so a finer and larger level costs no more. A coarser map is made by max pooling.

    Args:
        channels (int): Of the map.
        in_stride, out_stride (int): In pixels; one is a power of two times the other.
        norm_cfg (dict): Norm between two transposed convolutions.

    Returns:
        list[nn.Module]: Empty if the strides are equal. The result has the ``out_channels`` of the last transposed
        convolution, or ``channels`` if there is none.

    Raises:
        UserError: If the ratio of the strides is no power of two.
    """
    ratio = max(in_stride, out_stride) / min(in_stride, out_stride)
    steps = round(math.log2(ratio))
    if 2**steps != ratio:
        raise UserError(f'out_strides must be in_stride={in_stride} times or divided by a power of two, '
                        f'got {out_stride}')
    if out_stride > in_stride:
        # ceil_mode keeps the last row and column of odd sides, so a coarse level of a small map is never empty.
        return [nn.MaxPool2d(2**steps, 2**steps, ceil_mode=True)]
    layers: list[nn.Module] = []
    for step in range(steps):
        if step:
            layers += [build_norm_layer(norm_cfg, channels)[1], nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, max(channels // 2, 1), 2, stride=2))
        channels = max(channels // 2, 1)
    return layers


@MODELS.register_module()
class PerViTFeaturePyramid(BaseModule):
    """Feature pyramid of a backbone that keeps one resolution; a neck for MMDetection and MMSegmentation.

    The simple feature pyramid of `Exploring Plain Vision Transformer Backbones for Object Detection
    <https://arxiv.org/abs/2203.16527>`_. Each level is the last map, brought to the level's stride, followed by a 1 x 1
    and a 3 x 3 convolution with norms. If ``in_channels`` is a sequence, level i is made from the i-th map in the same
    way. There is no top-down path: with one map, every level has seen all blocks already.

    Args:
        in_channels (int | Sequence[int]): Channels of the last map, which feeds every level; or of one map for each
            level, in the order of ``out_strides``.
        out_channels (int): Channels of every level.
        in_stride (int): Pixels for each token of the maps, the backbone's ``out_stride``. Defaults to 16.
        out_strides (Sequence[int]): Stride of each level in pixels, in the order in which they are returned; each
            ``in_stride`` times or divided by a power of two. Defaults to (4, 8, 16, 32).
        num_outs (int, optional): Number of levels returned. Levels beyond ``out_strides`` come last. They are the
            coarsest level of ``out_strides``, at any position in it, subsampled by 2 each time, as in FPN. Defaults to
            None, as many as ``out_strides``.
        norm_cfg (dict): Norm after each convolution. Defaults to
            ``dict(type='PerViTLayerNorm2d', eps=1e-6)``.
        init_cfg (dict | list[dict], optional): Initialization. Defaults to None, torch's own.

    Raises:
        TypeError, UserError: With the argument's name, the value, and what is allowed.

    Examples:
        >>> import torch
        >>> from pervit_mm.models import PerViTFeaturePyramid
        >>> neck = PerViTFeaturePyramid(280, 256, num_outs=5)
        >>> [tuple(x.shape[2:]) for x in neck((torch.rand(1, 280, 14, 20), ))]
        [(56, 80), (28, 40), (14, 20), (7, 10), (4, 5)]
    """

    def __init__(self, in_channels: int | Sequence[int], out_channels: int, in_stride: int = 16,
                 out_strides: Sequence[int] = (4, 8, 16, 32), num_outs: int | None = None,
                 norm_cfg: dict = dict(type='PerViTLayerNorm2d', eps=1e-6),
                 init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.out_strides = tuple(out_strides)
        levels = len(self.out_strides)
        self.single = isinstance(in_channels, int)
        widths = (in_channels, ) * levels if self.single else tuple(in_channels)
        for name, values in (('out_strides', self.out_strides), ('in_channels', widths),
                             ('out_channels', (out_channels, )), ('in_stride', (in_stride, ))):
            if not values or not all(type(v) is int and v > 0 for v in values):
                raise UserError(f'{name} of PerViTFeaturePyramid must be positive integers, got {values}')
        if len(widths) != levels:
            raise UserError(f'in_channels must be one number, or one for each of out_strides={self.out_strides}, '
                            f'got {widths}')
        num_outs = levels if num_outs is None else num_outs
        if type(num_outs) is not int or num_outs < levels:
            raise UserError(f'num_outs must be at least the number of out_strides, {levels}, got {num_outs!r}')
        self.in_channels, self.out_channels = widths, out_channels
        self.in_stride, self.num_outs = in_stride, num_outs
        self.levels = nn.ModuleList()
        for width, stride in zip(widths, self.out_strides):
            layers = scale_layers(width, in_stride, stride, norm_cfg)
            ups = [layer for layer in layers if isinstance(layer, nn.ConvTranspose2d)]
            width = ups[-1].out_channels if ups else width
            layers += [
                nn.Conv2d(width, out_channels, 1, bias=False),
                build_norm_layer(norm_cfg, out_channels)[1],
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                build_norm_layer(norm_cfg, out_channels)[1],
            ]
            self.levels.append(nn.Sequential(*layers))

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs (tuple[Tensor, ...]): Maps ``(B, C, H / in_stride, W / in_stride)`` of the backbone. If
                ``in_channels`` is one number, only the last map is used.

        Returns:
            tuple[Tensor, ...]: ``num_outs`` maps ``(B, out_channels, H / stride, W / stride)``.

        Raises:
            UserError: If ``in_channels`` is a sequence and the number of maps differs from its length.
        """
        maps = (inputs[-1], ) * len(self.levels) if self.single else tuple(inputs)
        if len(maps) != len(self.levels):
            raise UserError(f'PerViTFeaturePyramid was built for {len(self.levels)} maps of {self.in_channels} '
                            f'channels and got {len(maps)}: give the backbone as many out_indices, or one '
                            'in_channels for the last map alone')
        outs = [level(x) for level, x in zip(self.levels, maps)]
        coarsest = max(zip(self.out_strides, range(len(outs))))[1]  # the last one of equal strides
        extra = outs[coarsest]
        while len(outs) < self.num_outs:
            extra = F.max_pool2d(extra, 1, stride=2)
            outs.append(extra)
        return tuple(out.contiguous() for out in outs)
