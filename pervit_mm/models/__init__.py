"""Backbone and its parts, registered in MMEngine's root ``MODELS``."""
from .attention import PeripheralAttention
from .initialization import PeripheralInit, find_backbones, init_schedule
from .layers import ConditionalPositionEncoding, ConvStem, FeedForward, PatchifyStem, PerViTBlock
from .necks import PerViTFeaturePyramid, PerViTLayerNorm2d
from .pervit import PerViT
from .position import (
    BasePosition,
    DistanceProjection,
    FrozenPosition,
    PerViTEuclideanPosition,
    PerViTPeripheralPosition,
    PerViTRelativePositionBias,
    PositionCache,
    PositionInit,
)
from .pretrained import load_pretrained

__all__ = [
    'BasePosition', 'ConditionalPositionEncoding', 'ConvStem', 'DistanceProjection', 'FeedForward', 'FrozenPosition',
    'PatchifyStem', 'PerViT', 'PerViTBlock', 'PerViTEuclideanPosition', 'PerViTFeaturePyramid', 'PerViTLayerNorm2d',
    'PerViTPeripheralPosition', 'PerViTRelativePositionBias', 'PeripheralAttention', 'PeripheralInit', 'PositionCache',
    'PositionInit', 'find_backbones', 'init_schedule', 'load_pretrained'
]
