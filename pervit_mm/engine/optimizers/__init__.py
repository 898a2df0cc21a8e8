"""Optimizer wrappers and their constructors, registered in MMEngine's root registries."""
from .bfloat16 import PerViTBFloat16OptimWrapper
from .groups import PerViTGroupedConstructor, fit_schedulers
from .layer_decay import PerViTLayerDecayConstructor

__all__ = ['PerViTBFloat16OptimWrapper', 'PerViTGroupedConstructor', 'PerViTLayerDecayConstructor', 'fit_schedulers']
