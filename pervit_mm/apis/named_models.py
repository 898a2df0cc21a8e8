"""The model that a user means: a name of the zoo, or a config and a checkpoint."""
from difflib import get_close_matches
from pathlib import Path

import torch
from mmengine.config import Config

from ..checkpoints import check_checkpoint, index_entries, package_root
from ..utils.errors import UserError, told
from .configs import load_config


def models_by_name() -> dict[str, tuple[str, str | None]]:
    """List the models of ``model-index.yml``.

    Returns:
        dict[str, tuple[str, str | None]]: By name, the path of the config and the ``pervit_mm://`` name of the weights.
        The latter is None if there are no weights.
    """
    root = package_root()
    return {entry['Name']: (str(root / entry['Config']), entry.get('Weights')) for entry in index_entries()}


def resolve_model(model: str, weights: str | None = None) -> tuple[Config, str]:
    """Find the config and the weights of a model.

    Args:
        model (str): A name of :func:`models_by_name`, or the path of a config.
        weights (str, optional): The checkpoint. It must be given for a config, and for a model without published
            weights. Defaults to None, the published one.

    Returns:
        tuple[Config, str]: The config, and the path or address of the weights.

    Raises:
        UserError: If there is no such model, if its file is no config in ``.py``, if weights must be given and are not,
            or if the weights cannot be found.
    """
    models = models_by_name()
    if model in models:
        config, published = models[model]
    elif Path(model).is_file():
        if Path(model).suffix in ('.json', '.yaml', '.yml'):  # they look like data, and import what they name
            raise UserError(f'model={model!r} is a file in {Path(model).suffix}, and MMEngine runs such a config '
                            'as code: give a name, or a config in .py that you trust')
        config, published = model, None
    else:
        if Path(model).suffix == '.py':
            raise UserError(f'model={model!r} is not a file: give the path of a config, or a name')
        near = get_close_matches(model, models, 1)
        raise UserError(f'model={model!r} is neither a config nor one of {", ".join(sorted(models)) or "(none)"}'
                        + (f': did you mean {near[0]}?' if near else ''))
    cfg = load_config(config)
    weights = weights or published
    if weights is None:
        what = ('has no published weights: give weights (--weights FILE), a file of the authors converted with '
                'tools/model_converters/pervit_to_mm.py' if model in models else
                'is a config, which has no weights: give weights (--weights FILE, or CONFIG,FILE for tools that '
                'compare), the path of a checkpoint')
        raise UserError(f'model={model!r} {what}')
    check_checkpoint(weights, 'weights (--weights)')
    return cfg, weights


def check_device(device: str) -> str:
    """Return ``device`` if PyTorch knows it and it is here, or raise UserError."""
    with told(f'device={device!r} (--device) is none of PyTorch, such as cpu or cuda:0', RuntimeError):
        kind = torch.device(device).type
    if kind == 'cuda' and not torch.cuda.is_available():
        raise UserError(f'device={device!r} (--device) is not here: there is no CUDA, give cpu')
    return device
