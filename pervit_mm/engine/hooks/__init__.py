"""Hooks, registered in MMEngine's root ``HOOKS``."""
from .attention_stats_hook import AttentionStatsHook
from .broken_images_hook import PerViTBrokenImagesHook
from .checkpoint_hook import PerViTCheckpointHook
from .compile_hook import PerViTCompileHook
from .initialization_hook import PeripheralInitHook
from .knn_hook import KNNHook
from .logger_hook import PerViTLoggerHook
from .non_finite_hook import PerViTNonFiniteHook
from .position_hooks import PerViTNonlocalityHook, PerViTPositionMapHook, PerViTPositionShiftHook
from .preemption_hook import PerViTPreemptionHook
from .random_state_hook import PerViTRandomStateHook
from .sync_buffers_hook import PerViTSyncBuffersHook

__all__ = [
    'AttentionStatsHook', 'KNNHook', 'PerViTBrokenImagesHook', 'PerViTCheckpointHook', 'PerViTCompileHook',
    'PerViTLoggerHook', 'PerViTNonFiniteHook', 'PerViTNonlocalityHook', 'PerViTPositionMapHook',
    'PerViTPositionShiftHook', 'PerViTPreemptionHook', 'PerViTRandomStateHook', 'PerViTSyncBuffersHook',
    'PeripheralInitHook'
]
