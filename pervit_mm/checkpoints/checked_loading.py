"""Every file that MMEngine loads is read by the list of :mod:`allow_list`, whichever MMEngine is installed.

MMEngine 0.10.7 leaves it to PyTorch whether a file may run code. Others decide themselves:

- onedl-mmengine 0.10.12 puts the real objects of numpy and MMEngine beside the checked ones. Which of them a file gets
  depends on the hash seed of the process. If a file is refused, it is loaded again with ``weights_only=False``.
- MMEngine 0.11.0rc3 asks for ``weights_only=False``.

So MMEngine's loaders get a ``torch.load`` from here that always asks for ``weights_only=True``. Whether that is enough
is then tried out on a harmless file. If it isn't, one warning says so.
"""
import pickle
import tempfile
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import mmengine
import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as loaders

from .allow_list import allow_checkpoint_types


def _load(file: Any, map_location: Any = None, weights_only: Any = None, **kwargs) -> Any:
    """``torch.load``, with ``weights_only=True`` whatever the caller asks for."""
    return torch.load(file, map_location=map_location, weights_only=True, **kwargs)


class _CheckedTorch(ModuleType):
    """Stands for ``torch`` in the module of MMEngine's loaders. All but ``load`` is the real thing."""
    load = staticmethod(_load)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class _Question:
    """Pickles as a harmless call that the list refuses: ``getattr('', 'join')``."""

    def __reduce__(self) -> tuple:
        return getattr, ('', 'join')


def loads_are_checked() -> bool:
    """Try out whether MMEngine refuses a file that asks for a call. The call does nothing.

    Returns:
        bool: False if MMEngine makes the call, or if it could not be tried.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'question.pth'
            torch.save(_Question(), path)
            CheckpointLoader.load_checkpoint(str(path), map_location='cpu', logger='silent')
    except pickle.UnpicklingError:
        return True
    except Exception:  # no place for a temporary file, or another MMEngine: nothing is known, and the import goes on
        pass
    return False


def check_loading() -> bool:
    """Allow what MMEngine's checkpoints hold, and make MMEngine refuse everything else.

    Called once by ``import pervit_mm``; more calls change nothing. It changes nothing where PyTorch is older than 2.6,
    which has no such list, and warns there.

    Returns:
        bool: Whether MMEngine refuses what is not on the list. If not, a warning has said so.
    """
    if allow_checkpoint_types():
        loaders.torch = _CheckedTorch('torch')
        if hasattr(loaders, '_safe_torch_load'):
            loaders._safe_torch_load = _load
    checked = loads_are_checked()
    if not checked:
        warnings.warn(
            'pervit_mm cannot make sure that loading a checkpoint runs no code of it: MMEngine '
            f'{mmengine.__version__} with PyTorch {torch.__version__} loads in a way of its own. Load only files that '
            'you trust, or install PyTorch 2.6 or newer with mmengine 0.10.7 or onedl-mmengine 0.10.12.', stacklevel=2)
    return checked
