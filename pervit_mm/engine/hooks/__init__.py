"""Hooks, registered in MMEngine's root ``HOOKS``."""
from .initialization_hook import PeripheralInitHook
from .position_hooks import PerViTNonlocalityHook, PerViTPositionMapHook
from .random_state_hook import PerViTRandomStateHook
from .sync_buffers_hook import PerViTSyncBuffersHook

__all__ = ['PerViTNonlocalityHook', 'PerViTPositionMapHook', 'PerViTRandomStateHook', 'PerViTSyncBuffersHook',
           'PeripheralInitHook']
