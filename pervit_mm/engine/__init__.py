"""What plugs into a runner: initialization, hooks, layer-wise learning rate decay."""
from .bfloat16 import PerViTBFloat16OptimWrapper
from .checkpoint_loading import allow_checkpoint_types
from .hooks import PeripheralInitHook, PerViTNonlocalityHook, PerViTPositionMapHook, PerViTRandomStateHook
from .initialization import PeripheralInit, find_backbones, init_schedule
from .layer_decay import PerViTLayerDecayConstructor

__all__ = [
    'PerViTBFloat16OptimWrapper', 'PerViTLayerDecayConstructor', 'PerViTNonlocalityHook', 'PerViTPositionMapHook',
    'PerViTRandomStateHook', 'PeripheralInit', 'PeripheralInitHook', 'allow_checkpoint_types', 'find_backbones',
    'init_schedule'
]
