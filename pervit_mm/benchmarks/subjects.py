"""What ``tools/benchmark.py`` compares: models, and functions that call them once."""
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
import torch.nn as nn
from mmengine.registry import MODELS, init_default_scope

from ..apis.configs import load_config
from ..checkpoints import package_root
from ..models import BasePosition, PerViT

#: For each size of PerViT, MMPretrain's backbones nearest in cost.
RIVALS = {
    'tiny': {'DeiT-T': dict(type='mmpretrain.VisionTransformer', arch='deit-tiny')},
    'small': {'DeiT-S': dict(type='mmpretrain.VisionTransformer', arch='deit-small'),
              'Swin-T': dict(type='mmpretrain.SwinTransformer', arch='tiny')},
    'medium': {'Swin-S': dict(type='mmpretrain.SwinTransformer', arch='small'),
               'DeiT-B': dict(type='mmpretrain.VisionTransformer', arch='deit-base')},
}


class ConstantPosition(BasePosition):
    """log Φp that requires a gradient but costs nothing to make: the least that a position module can cost.

    Args:
        log_position (Tensor): ``(nH, N, N)``.
    """

    needs_projection = False

    def __init__(self, log_position: torch.Tensor) -> None:
        super().__init__()
        self.log_position = nn.Parameter(log_position.detach().clone())

    def forward(self, hw_shape: tuple[int, int], projection: nn.Module | None = None) -> torch.Tensor:
        """log Φp, ``(nH, N, N)``, whatever the grid."""
        return self.log_position


def pervit(size: str, **kwargs) -> PerViT:
    """An initialized PerViT on :func:`device`."""
    model = PerViT(size, **kwargs)
    model.init_weights()
    return model.to(device())


def rival(cfg: dict) -> nn.Module:
    """One of MMPretrain's backbones in eval mode, on :func:`device`."""
    model = MODELS.build(cfg).to(device())
    model.eval()  # not chained, because eval() of some of MMPretrain's backbones returns None
    return model


def device() -> str:
    """'cuda' if there is a GPU, or else 'cpu'."""
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def infer(model: Callable, images: torch.Tensor) -> Callable[[], None]:
    """Return a function that runs one forward pass without gradients."""

    def run() -> None:
        with torch.no_grad():
            model(images)

    return run


def step(model: nn.Module, images: torch.Tensor, forward: Callable | None = None) -> Callable[[], None]:
    """Return a function that runs one forward and backward pass."""
    forward = forward or (lambda x: model(x)[0])

    def run() -> None:
        for param in model.parameters():
            param.grad = None
        forward(images).square().mean().backward()

    return run


def by_definition(oracle: ModuleType, state: dict, num_heads: int, positions: list | None,
                   images: torch.Tensor) -> torch.Tensor:
    """Output ``(B, C)`` of PerViT by its definition, in eval mode, with the weights of a state dict."""
    return oracle.backbone(state, images, num_heads, torch.float32, positions=positions)[0].mean(1)


def detector_step(kind: str, height: int, width: int) -> Callable[[], None]:
    """Return a function that runs one forward and backward pass of Mask R-CNN with PerViT-S.

    The pass recomputes blocks in backward (``with_cp``) and takes one image with eight objects.

    Args:
        kind (str): 'windows' or 'global' attention.
        height, width (int): Of the image, in pixels.
    """
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData
    init_default_scope('mmdet')
    cfg = load_config(package_root() / 'configs' / 'detection' / 'mask-rcnn_pervit-small_fpn_1x_coco.py')
    window_size = 'pretrain' if kind == 'windows' else None
    cfg.model.backbone.update(init_cfg=None, with_cp=True, window_size=window_size)
    model = MODELS.build(cfg.model).to(device()).train()
    model.init_weights()
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(8, 2, generator=generator) * torch.tensor([width - 200, height - 200])
    sides = 40 + 160 * torch.rand(8, 2, generator=generator)
    boxes = torch.cat([corner, corner + sides], 1)
    masks = np.zeros((8, height, width), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
        mask[top:bottom, left:right] = 1
    sample = DetDataSample(metainfo=dict(img_shape=(height, width), pad_shape=(height, width),
                                         batch_input_shape=(height, width), scale_factor=(1., 1.)))
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(8), masks=BitmapMasks(masks, height, width))
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)

    def run() -> None:
        for param in model.parameters():
            param.grad = None
        data = model.data_preprocessor(dict(inputs=[image], data_samples=[sample.clone()]), training=True)
        losses = model(**data, mode='loss')
        model.parse_losses(losses)[0].backward()

    return run
