"""pervit_mm: the Peripheral Vision Transformer for MMPretrain, MMDetection and MMSegmentation.

``custom_imports = dict(imports=['pervit_mm'], allow_failed_imports=False)`` in a config makes ``type='PerViT'``
available.
"""
# ruff: noqa: E402
from .environment import check_environment

check_environment()

from . import engine, models
from .version import __version__

engine.allow_checkpoint_types()

__all__ = ['__version__', 'engine', 'models']
