"""What plugs into a runner: hooks, optimizer wrappers, and what a launch needs."""
from ..checkpoints import allow_checkpoint_types
from ..models.initialization import PeripheralInit, find_backbones, init_schedule
from .averaged_model import PerViTExponentialMovingAverage
from .hooks import (
    AttentionStatsHook,
    KNNHook,
    PeripheralInitHook,
    PerViTBrokenImagesHook,
    PerViTCheckpointHook,
    PerViTCompileHook,
    PerViTLoggerHook,
    PerViTNonFiniteHook,
    PerViTNonlocalityHook,
    PerViTPositionMapHook,
    PerViTPositionShiftHook,
    PerViTPreemptionHook,
    PerViTRandomStateHook,
    PerViTSyncBuffersHook,
)
from .optimizers import PerViTBFloat16OptimWrapper, PerViTGroupedConstructor, PerViTLayerDecayConstructor
from .runner import PerViTRunner

__all__ = [
    'AttentionStatsHook', 'KNNHook', 'PerViTBFloat16OptimWrapper', 'PerViTBrokenImagesHook', 'PerViTCheckpointHook',
    'PerViTCompileHook', 'PerViTExponentialMovingAverage', 'PerViTGroupedConstructor',
    'PerViTLayerDecayConstructor', 'PerViTLoggerHook', 'PerViTNonFiniteHook', 'PerViTNonlocalityHook',
    'PerViTPositionMapHook', 'PerViTPositionShiftHook', 'PerViTPreemptionHook', 'PerViTRandomStateHook',
    'PerViTRunner', 'PerViTSyncBuffersHook', 'PeripheralInit', 'PeripheralInitHook', 'allow_checkpoint_types',
    'find_backbones', 'init_schedule'
]
