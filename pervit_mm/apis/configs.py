"""The only place where configs are read, and what a config says about its images."""
import inspect
import os.path as osp
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from ..models.arch import to_pair
from ..utils.errors import UserError, told
from ..utils.type_names import type_name

#: For each scope that a config may name, the distribution to install.
TOOLBOXES = dict(mmpretrain='mmpretrain', mmdet='mmdet', mmseg='mmsegmentation')
#: (h, w) for counting FLOPs if a config tests with images of several sizes.
DENSE_SIZE = (224, 224)
#: Keys of a config that Runner and the toolboxes read besides the arguments of Runner.
_MORE_KEYS = {
    'compile', 'find_unused_parameters', 'sync_bn', 'model_wrapper_cfg', 'activation_checkpointing', 'runner_type',
    'efficient_conv_bn_eval', 'custom_imports', 'tta_model', 'tta_pipeline', 'test_pipeline',
    'data_preprocessor'
}


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read a config file and merge overrides into it.

    Args:
        path (str | Path): The config file.
        options (dict, optional): Overrides with dotted keys, as ``--cfg-options`` gives them. Defaults to None.

    Returns:
        Config: The resolved config.

    Raises:
        UserError: If there is no such file, if it cannot be read as a config, if its toolbox is not installed, or if
            neither Runner nor a toolbox reads the first word of an override.
    """
    path = str(path)
    if not osp.isfile(path):
        raise UserError(f'config {path!r} is not a file: give the path of a config, for example configs/pervit_tiny.py')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is code and may raise anything
        raise UserError(f'config {path!r} cannot be read ({type(error).__name__}: {error}): give a config in .py, '
                        '.json or .yml, and install the toolboxes of its bases') from error
    scope = cfg.get('default_scope', 'mmengine')
    if scope in TOOLBOXES and find_spec(scope) is None:
        raise UserError(f"config {path!r} has default_scope='{scope}', but {scope} isn't installed: pip install "
                        f'{TOOLBOXES[scope]}')
    if options:
        _reject_unread(cfg, options)
        with told(f'--cfg-options {" ".join(options)}: the config has no such place', KeyError, IndexError, TypeError):
            cfg.merge_from_dict(options)
    return cfg


def _reject_unread(cfg: Config, options: dict[str, Any]) -> None:
    """Raise UserError for an override whose first word nobody reads, because it would have no effect."""
    read = {*inspect.signature(Runner.__init__).parameters, *_MORE_KEYS} - {'self', 'cfg'}
    for key in options:
        first = key.split('.')[0]
        if first in read:
            continue
        if first not in cfg:
            raise UserError(f'--cfg-options {key}: the config has no {first!r}; it has {", ".join(sorted(cfg.keys()))}')
        same = [place for name in cfg if name in read for place in _places(cfg[name], cfg[first], name)]
        hint = f', such as {", ".join(same[:4])}' if same else ''
        raise UserError(f'--cfg-options {key}: the config used {first} while it was read, and nothing reads it now: '
                        f'set the keys that have its value{hint}')


def _places(tree: Any, value: Any, name: str) -> Iterator[str]:
    """Dotted keys below ``name`` that have a value of the same type."""
    if type(tree) is type(value) and tree == value:
        yield name
    elif isinstance(tree, (dict, list, tuple)):
        for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _places(part, value, f'{name}.{key}')


def pipeline_size_of(cfg: Config) -> tuple[int, int] | None:
    """Image size that the test pipeline of a config gives to every image.

    Args:
        cfg (Config): Of any toolbox. What counts is the last CenterCrop, or Resize without ``keep_ratio``.

    Returns:
        tuple[int, int], optional: (h, w) in pixels; None if there is no such transform.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    for step in reversed(dataset.get('pipeline') or []):
        size = step.get({'CenterCrop': 'crop_size', 'Resize': 'scale'}.get(type_name(step)))
        if size is not None and not step.get('keep_ratio'):
            return (size, size) if isinstance(size, int) else (size[1], size[0])  # transforms give (w, h)
    return None


def image_size_of(cfg: Config) -> tuple[int, int] | None:
    """Image size that a config tests with.

    Args:
        cfg (Config): Of any toolbox. What counts is :func:`pipeline_size_of`. If there is none and the toolbox is
            MMPretrain, ``model.backbone.img_size`` counts.

    Returns:
        tuple[int, int], optional: (h, w) in pixels. None if images differ in size, as in detection and segmentation.

    Raises:
        UserError: If ``img_size`` is not a valid size.
    """
    size = pipeline_size_of(cfg)
    if size is not None:
        return size
    if cfg.get('default_scope') == 'mmpretrain':
        return to_pair('model.backbone.img_size', (cfg.model.get('backbone') or {}).get('img_size', 224))
    return None


def input_shape(cfg: Config, several: tuple[int, int] = DENSE_SIZE) -> tuple[int, int, int]:
    """Shape of one image for a config's model, for counting FLOPs and recording outputs.

    Args:
        cfg (Config): Of any toolbox.
        several (tuple[int, int]): (h, w) if the config tests with images of several sizes. Defaults to
            :data:`DENSE_SIZE`.

    Returns:
        tuple[int, int, int]: Input channels of the backbone, and the (h, w) that the config tests with.
    """
    return ((cfg.model.get('backbone') or {}).get('in_channels', 3), *(image_size_of(cfg) or several))


def preprocessing_of(cfg: Config) -> dict:
    """How images with values in [0, 255] must be prepared for the model.

    Args:
        cfg (Config): Of any toolbox.

    Returns:
        dict: ``mean`` and ``std`` of each channel, or None; ``to_rgb``, whether channels are swapped before that.
    """
    config = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    listed = {key: list(config[key]) if config.get(key) is not None else None for key in ('mean', 'std')}
    return dict(**listed, to_rgb=bool(config.get('to_rgb') or config.get('bgr_to_rgb')))
