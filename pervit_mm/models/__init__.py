"""Backbone and its parts, registered in MMEngine's root ``MODELS``."""
from .attention import PeripheralAttention
from .deploy import FrozenPosition
from .layers import ConditionalPositionEncoding, ConvStem, FeedForward, PatchifyStem, PerViTBlock
from .necks import PerViTFeaturePyramid, PerViTLayerNorm2d
from .pervit import PerViT
from .position import DistanceProjection, PerViTPeripheralPosition, PositionInit
from .position_cache import PositionCache
from .position_variants import PerViTEuclideanPosition, PerViTRelativePositionBias
from .pretrained import load_pretrained

__all__ = [
    'ConditionalPositionEncoding', 'ConvStem', 'DistanceProjection', 'FeedForward', 'FrozenPosition', 'PatchifyStem',
    'PerViT', 'PerViTBlock', 'PerViTEuclideanPosition', 'PerViTFeaturePyramid', 'PerViTLayerNorm2d',
    'PerViTPeripheralPosition', 'PerViTRelativePositionBias', 'PeripheralAttention', 'PositionCache', 'PositionInit',
    'load_pretrained'
]
