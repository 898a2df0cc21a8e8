"""pervit_mm: the Peripheral Vision Transformer for MMPretrain, MMDetection and MMSegmentation.

``custom_imports = dict(imports=['pervit_mm'], allow_failed_imports=False)`` in a config makes ``type='PerViT'``
available, and ``pervit_mm://<file>`` loads the checkpoints that come with it. ``import pervit_mm.zoo`` adds the models
to MMPretrain's hub.
"""
# ruff: noqa: E402
from .utils.environment import check_environment, find_toolboxes

check_environment()
find_toolboxes()

from . import checkpoints, datasets, engine, models
from .version import __version__

checkpoints.check_loading()
checkpoints.register_scheme()

__all__ = ['__version__', 'checkpoints', 'datasets', 'engine', 'models']
