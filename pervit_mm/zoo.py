"""PerViT in MMPretrain's model hub, by name and offline, after ``import pervit_mm.zoo``.

``mmpretrain.list_models('pervit*')``, ``get_model``, ``inference_model`` and the inferencers then take the names of the
classifiers. A name without published weights cannot be loaded with ``pretrained=True``, and the error says what to
do. Without MMPretrain the import does nothing, and only :func:`register_models` complains.

A metafile that ``model-index.yml`` imports is registered if all its results are of image classification. Detectors and
segmentors are left out: MMPretrain could list them, but not build one.
"""
from importlib.util import find_spec

from .checkpoints import from_official, package_root, read_index, to_official
from .checkpoints.published import PREFIX
from .utils.errors import UserError

__all__ = ['from_official', 'register_models', 'to_official']

#: Task of the models that MMPretrain's hub gets.
TASK = 'Image Classification'


def register_models() -> list[str]:
    """Register the classifiers with MMPretrain's ``ModelHub``. Further calls change nothing.

    Returns:
        list[str]: Their names, as ``mmpretrain.list_models`` has them.

    Raises:
        ImportError: If MMPretrain isn't installed.
        UserError: If another package registered models under some of these names.
    """
    if find_spec('mmpretrain') is None:
        raise ImportError("models are registered with MMPretrain's hub, and mmpretrain isn't installed: pip install "
                          'mmpretrain (or onedl-mmpretrain)', name='mmpretrain')
    from mmpretrain import ModelHub  # imported here: pervit_mm works without it, and the import takes seconds
    metafiles = {path: models for path, models in read_index().items()
                 if {result['Task'] for model in models for result in model.get('Results', ())} == {TASK}}
    names = [model['Name'].lower() for models in metafiles.values() for model in models]  # the hub looks up lower case
    taken = [name for name in names if ModelHub.has(name)]
    if taken and taken != names:
        raise UserError(f"{', '.join(taken)} {'is' if len(taken) == 1 else 'are'} in MMPretrain's hub already, from "
                        'another package: import only one of the two')
    if not taken:
        root = package_root()
        for path in metafiles:  # the hub itself would look for the configs beside the metafile
            ModelHub.register_model_index(root / path, config_prefix=root)
        for models in metafiles.values():
            for model in models:
                if 'Weights' not in model:  # loading tells what to do, where MMPretrain would go on with random weights
                    ModelHub._models_dict[model['Name'].lower()].weights = f'{PREFIX}{model["Name"]}'
    return names


if find_spec('mmpretrain') is not None:
    register_models()
