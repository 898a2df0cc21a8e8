"""What ``tools/benchmark.py`` compares: models to time, and calls of them."""
from collections.abc import Callable
from types import ModuleType

import torch
import torch.nn as nn
from mmengine.registry import MODELS

from ..models import PerViT

#: MMPretrain's backbones nearest in cost.
RIVALS = {
    'tiny': {'DeiT-T': dict(type='mmpretrain.VisionTransformer', arch='deit-tiny')},
    'small': {'DeiT-S': dict(type='mmpretrain.VisionTransformer', arch='deit-small'),
              'Swin-T': dict(type='mmpretrain.SwinTransformer', arch='tiny')},
    'medium': {'Swin-S': dict(type='mmpretrain.SwinTransformer', arch='small'),
               'DeiT-B': dict(type='mmpretrain.VisionTransformer', arch='deit-base')},
}


class ConstantMask(nn.Module):
    """A mask that requires a gradient and costs nothing to make: what is left of a position module for free."""

    needs_projection = False

    def __init__(self, term: torch.Tensor) -> None:
        super().__init__()
        self.term = nn.Parameter(term.detach().clone())

    def forward(self, hw_shape: tuple[int, int], projection: nn.Module | None = None) -> torch.Tensor:
        """The mask, ``(nH, N, N)``."""
        return self.term


def pervit(size: str, **kwargs) -> PerViT:
    """An initialized PerViT on the device that there is."""
    model = PerViT(size, **kwargs)
    model.init_weights()
    return model.to(device())


def rival(cfg: dict) -> nn.Module:
    """One of MMPretrain's backbones in eval mode, on the device that there is."""
    model = MODELS.build(cfg).to(device())
    model.eval()  # does not return the model in some of them
    return model


def device() -> str:
    """'cuda' where there is one, or else 'cpu'."""
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def infer(model: Callable, images: torch.Tensor) -> Callable[[], None]:
    """One forward pass without gradient."""

    def run() -> None:
        with torch.no_grad():
            model(images)

    return run


def step(model: nn.Module, images: torch.Tensor, forward: Callable | None = None) -> Callable[[], None]:
    """One forward and backward pass."""
    forward = forward or (lambda x: model(x)[0])

    def run() -> None:
        for param in model.parameters():
            param.grad = None
        forward(images).square().mean().backward()

    return run


def by_definition(oracle: ModuleType, state: dict, num_heads: int, positions: list | None,
                   images: torch.Tensor) -> torch.Tensor:
    """PerViT by its definition in eval mode, ``(B, C)``, of a state dict."""
    return oracle.backbone(state, images, num_heads, torch.float32, positions=positions)[0].mean(1)
