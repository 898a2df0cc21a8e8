"""What plugs into a runner: initialization and hooks."""
from .checkpoint_loading import allow_checkpoint_types
from .hooks import PeripheralInitHook, PerViTNonlocalityHook, PerViTPositionMapHook, PerViTRandomStateHook
from .initialization import PeripheralInit, find_backbones, init_schedule

__all__ = [
    'PerViTNonlocalityHook', 'PerViTPositionMapHook', 'PerViTRandomStateHook', 'PeripheralInit', 'PeripheralInitHook',
    'allow_checkpoint_types', 'find_backbones', 'init_schedule'
]
