"""How images were prepared for the weights of a checkpoint, and how a config prepares them."""
import math
import os.path as osp
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..checkpoints import index_entries, package_root, published_files
from .configs import load_config, pipeline_size_of, preprocessing_of

#: Entry of a checkpoint's ``meta`` in which :class:`pervit_mm.engine.PerViTRunner` writes what :func:`inputs_of` tells.
KEY = 'inputs'


def inputs_of(cfg: Config) -> dict[str, Any]:
    """What a config does to images ahead of the model.

    Args:
        cfg (Config): Of any toolbox.

    Returns:
        dict: ``mean`` and ``std`` of each channel in gray levels, lists or None; ``to_rgb``, whether channels are
        swapped before; ``size``, the [h, w] in pixels that the config tests with, or None if images differ in size or
        the config doesn't say it. Empty if the config has no model.
    """
    if not isinstance(cfg.get('model'), dict):  # of a runner that was given its parts as objects
        return {}
    size, given = pipeline_size_of(cfg), (cfg.model.get('backbone') or {}).get('img_size')
    if size is None and given is not None and cfg.get('default_scope') == 'mmpretrain':
        size = (given, given) if isinstance(given, int) else given
    return dict(preprocessing_of(cfg), size=None if size is None else list(size))


def recorded_inputs(filename: str, content: Mapping | None) -> dict[str, Any] | None:
    """What a checkpoint says about its images.

    Args:
        filename (str): Where the checkpoint is from. A published file without a record has that of its config.
        content (Mapping, optional): What the file holds.

    Returns:
        dict, optional: As :func:`inputs_of`; None if nothing is known.
    """
    meta = content.get('meta') if isinstance(content, Mapping) else None
    record = meta.get(KEY) if isinstance(meta, Mapping) else None
    if isinstance(record, Mapping):
        return dict(record)
    name = osp.basename(filename)
    # Files of a run have other names, and need no look into the package.
    if not re.search(r'_\d{8}-[0-9a-f]{8}\.pth$', name) or name not in published_files():
        return None
    model = name.rsplit('_', 1)[0]  # ahead of date and digest, which an earlier file of the model has, too
    config = next((entry['Config'] for entry in index_entries() if Path(entry['Config']).stem == model), None)
    return None if config is None else inputs_of(load_config(package_root() / config))


def tell_difference(filename: str, recorded: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """Say in one sentence that images are prepared in another way than those that a checkpoint was trained on.

    Args:
        filename (str): Where the checkpoint is from, for the message.
        recorded (Mapping): Of the checkpoint, see :func:`inputs_of`.
        given (Mapping): Of the config.

    Returns:
        str, optional: The sentence; None if nothing differs, as far as both say something.
    """
    then, now = [], []
    for name in ('mean', 'std'):
        a, b = recorded.get(name), given.get(name)
        if not _same(a, b):
            then.append(f'{name}={_short(a)}')
            now.append(f'{name}={_short(b)}')
    a, b = recorded.get('size'), given.get('size')
    if a and b and list(a) != list(b):
        then.append(f'images of {a[0]} x {a[1]} px')
        now.append(f'images of {b[0]} x {b[1]} px')
    if not then:
        return None
    return (f"'{filename}' was trained with {', '.join(then)}, and this config has {', '.join(now)}: features fit best "
            'as they were trained, so set data_preprocessor and the pipelines to these values if you can')


def _same(a: Any, b: Any) -> bool:
    """Whether two normalizations are one, where a single value stands for all channels."""
    if a is None or b is None:
        return a is b
    a, b = list(a), list(b)
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        return False
    length = max(len(a), len(b))
    return all(math.isclose(x, y, rel_tol=1e-3, abs_tol=1e-3) for x, y in zip(
        a * length if len(a) == 1 else a, b * length if len(b) == 1 else b))


def _short(values: Any) -> str:
    return 'none' if values is None else str([float(f'{value:.5g}') for value in values])
