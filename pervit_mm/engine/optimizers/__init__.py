"""Optimizer wrappers and their constructors, registered in MMEngine's root registries."""
from .bfloat16 import PerViTBFloat16OptimWrapper
from .layer_decay import PerViTLayerDecayConstructor

__all__ = ['PerViTBFloat16OptimWrapper', 'PerViTLayerDecayConstructor']
