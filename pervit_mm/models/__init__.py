"""Backbone and its parts, registered in MMEngine's root ``MODELS``."""
from .attention import PeripheralAttention
from .layers import ConditionalPositionEncoding, ConvStem, FeedForward, PatchifyStem, PerViTBlock
from .pervit import PerViT
from .position import DistanceProjection, PerViTPeripheralPosition, PositionInit
from .position_cache import PositionCache
from .position_variants import FrozenPosition, PerViTEuclideanPosition, PerViTRelativePositionBias

__all__ = [
    'ConditionalPositionEncoding', 'ConvStem', 'DistanceProjection', 'FeedForward', 'FrozenPosition', 'PatchifyStem',
    'PerViT', 'PerViTBlock', 'PerViTEuclideanPosition', 'PerViTPeripheralPosition', 'PerViTRelativePositionBias',
    'PeripheralAttention', 'PositionCache', 'PositionInit'
]
