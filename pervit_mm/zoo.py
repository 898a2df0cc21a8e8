"""PerViT in MMPretrain's model hub, by name and offline, after ``import pervit_mm.zoo``.

``mmpretrain.list_models('pervit*')``, ``get_model``, ``inference_model`` and the inferencers then take the names of
``configs/metafile.yml``. Without MMPretrain the import does nothing, and only :func:`register_models` complains.

The detectors and segmentors of the index aren't registered: MMPretrain could list them, and not build one.
"""
from importlib.util import find_spec

from .checkpoints import package_root
from .official_keys import from_official, to_official

__all__ = ['from_official', 'register_models', 'to_official']

#: Metafile of the classifiers, below :func:`pervit_mm.checkpoints.package_root`.
METAFILE = 'configs/metafile.yml'


def register_models() -> list[str]:
    """Register the classifiers with MMPretrain's ``ModelHub``; more calls change nothing.

    Returns:
        list[str]: Their names, as ``mmpretrain.list_models`` has them.

    Raises:
        ImportError: If MMPretrain isn't installed.
        ValueError: If another package registered models under some of these names.
    """
    if find_spec('mmpretrain') is None:
        raise ImportError("models are registered with MMPretrain's hub, and mmpretrain isn't installed: pip install "
                          'mmpretrain (or onedl-mmpretrain)', name='mmpretrain')
    from mmpretrain import ModelHub  # here, as `pervit_mm` works without it, and its import takes seconds
    from modelindex.load_model_index import load
    root = package_root()
    names = [model.name.lower() for model in load(str(root / METAFILE)).models]  # the hub looks up lower case
    taken = [name for name in names if ModelHub.has(name)]
    if taken and taken != names:
        raise ValueError(f"{', '.join(taken)} {'is' if len(taken) == 1 else 'are'} in MMPretrain's hub already, from "
                         'another package: import only one of the two')
    if not taken:
        # The hub itself would look for the configs beside the metafile.
        ModelHub.register_model_index(root / METAFILE, config_prefix=root)
    return names


if find_spec('mmpretrain') is not None:
    register_models()
