"""Checkpoint files of the authors' code, to ours and back.

:mod:`pervit_mm.official_keys` knows which key is which; here is what surrounds it. The authors' file is a dict of the
state dict (``model``), the states of optimizer and scheduler, the epoch, and ``args``, an ``argparse.Namespace``.
"""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint_files import beginnings, describe, entry_of, has_backbone, is_state_dict, own_tensor, read_checkpoint
from .models import PerViT
from .models.arch import resolve_arch
from .official_keys import from_official, key_pairs, to_official
from .version import __version__

#: Sizes that the authors' checkpoints come in.
SIZES = ('tiny', 'small', 'medium')


def read_official(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict from a file in the authors' layout, never running code of the file.

    Args:
        path (str | Path): A file with a dict whose ``model`` is the state dict, or with the state dict alone.

    Returns:
        dict[str, Tensor]: On the CPU, with the authors' keys; not checked yet, see :func:`convert_official`.

    Raises:
        ValueError: If the file isn't there, can't be read, asks for an object that isn't on the list, or holds
            something else.
    """
    content = read_checkpoint(path)
    if has_backbone(entry_of(content, 'state_dict')):
        raise ValueError(f"'{path}' has OpenMMLab's layout already (keys that begin with 'backbone.'), so there is "
                         "nothing to convert; the way back is tools/model_converters/mm_to_pervit.py")
    if is_state_dict(state := entry_of(content, 'model')):
        return dict(state)
    raise ValueError(f"'{path}' is not a checkpoint of the authors' code, which is a dict whose 'model' is a state "
                     f'dict of tensors, or that state dict alone: it holds {describe(content)}')


def recognise_size(state_dict: Mapping[str, Tensor]) -> str:
    """Tell the size from the widths of the four stages.

    Args:
        state_dict (Mapping[str, Tensor]): In the authors' key layout or in ours; the head plays no part.

    Returns:
        str: 'tiny', 'small' or 'medium'.

    Raises:
        TypeError: If a key is not a string or a value not a dense tensor.
        ValueError: If the widths are of none of them, or the blocks aren't there; it says what was found.
    """
    for key, value in state_dict.items():
        # A crafted file can also hold sparse tensors, and tensors without values.
        dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
        if not dense or not isinstance(key, str):
            raise TypeError(f'state_dict must map names to dense tensors, got {key!r}: {type(value).__name__}')
    depths = resolve_arch('tiny')['depths']  # the same in all three
    keys = [f'blocks.{sum(depths[:k])}.norm1.weight' for k in range(len(depths))]
    prefix = 'backbone.' if has_backbone(state_dict) else ''
    shapes = [tuple(state_dict[prefix + key].shape) if prefix + key in state_dict else 'missing' for key in keys]
    widths = {size: resolve_arch(size)['embed_dims'] for size in SIZES}
    for size in SIZES:
        if shapes == [(width, ) for width in widths[size]]:
            return size
    found = ', '.join(f'{prefix}{key} is {shape}' for key, shape in zip(keys, shapes))  # of each stage's first block
    raise ValueError(f'state_dict is not PerViT {", ".join(f"{size} {widths[size]}" for size in SIZES)}: {found}; its '
                     f'{len(state_dict)} keys begin with {beginnings(state_dict)}')


def _check_shapes(ours: Mapping[str, Tensor], size: str, names: Mapping[str, str]) -> int:
    """Check every shape against the real model; ``names`` maps our keys to those for the message.

    Returns:
        int: Number of classes of the head, which may be any.
    """
    with torch.device('meta'):
        backbone = PerViT(size)
    weight = ours['head.fc.weight']
    # A head that is no matrix has no number of classes; the message then shows ImageNet's.
    num_classes = weight.shape[0] if weight.dim() == 2 and len(weight) > 0 else 1000
    expected = {f'backbone.{key}': tuple(value.shape) for key, value in backbone.state_dict().items()}
    expected['head.fc.weight'], expected['head.fc.bias'] = (num_classes, backbone.out_channels[-1]), (num_classes, )
    wrong = [f'{names[key]} is {tuple(value.shape)} and must be {expected[key]}'
             for key, value in ours.items() if tuple(value.shape) != expected[key]]
    if wrong:
        more = f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''
        raise ValueError(f'state_dict has the stages of PerViT {size}, but other shapes: {"; ".join(wrong[:5])}{more}')
    return num_classes


def convert_official(state_dict: Mapping[str, Tensor],
                     drop_head: bool = False,
                     backbone_only: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Turn an official state dict into one for ``ImageClassifier`` of configs/pervit_*.py.

    Without the head all keys still begin with ``backbone.``, so that one ``init_cfg=dict(type='Pretrained',
    checkpoint=..., prefix='backbone.')`` takes the backbone from this file, from the full one and from a training
    of ours alike. ``drop_head`` and ``backbone_only`` therefore give the same tensors: a classifier is backbone and
    head, and these are two names for two needs, fine-tuning on other classes and dense tasks.

    Args:
        state_dict (Mapping[str, Tensor]): In the authors' key layout, of any dtype, which is kept.
        drop_head (bool): Whether the head is left out. Defaults to False.
        backbone_only (bool): Whether only the backbone is kept. Defaults to False.

    Returns:
        tuple[dict[str, Tensor], dict]: Plain tensors under our keys; and ``size``, ``num_classes`` of the official
        head (also where it is dropped), ``dropped``, our keys that were left out, and ``pervit_mm_version``.

    Raises:
        TypeError: If a key is not a string or a value not a dense tensor.
        ValueError: If the size is none of the official ones; with every unknown and missing key; or with the first
            tensors of another shape.
    """
    size = recognise_size(state_dict)
    ours = from_official(state_dict)
    num_classes = _check_shapes(ours, size, {own: theirs for theirs, own in key_pairs()})
    dropped = [key for key in ours if (drop_head or backbone_only) and not key.startswith('backbone.')]
    meta = dict(size=size, num_classes=num_classes, dropped=dropped, pervit_mm_version=__version__)
    return {key: own_tensor(value) for key, value in ours.items() if key not in dropped}, meta


def revert_to_official(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Inverse of :func:`convert_official`.

    Args:
        state_dict (Mapping[str, Tensor]): Of an ``ImageClassifier`` with PerViT tiny, small or medium, head included.

    Returns:
        tuple[dict[str, Tensor], dict]: Plain tensors under the authors' keys; and ``size``, ``num_classes``.

    Raises:
        TypeError, ValueError: As :func:`convert_official` does, with our keys.
    """
    size = recognise_size(state_dict)
    official = to_official(state_dict)
    num_classes = _check_shapes(state_dict, size, {key: key for key in state_dict})
    return {key: own_tensor(value) for key, value in official.items()}, dict(size=size, num_classes=num_classes)


def count_parameters(state_dict: Mapping[str, Tensor]) -> int:
    """Count the parameters in a state dict of either layout, without BatchNorm's statistics."""
    statistics = ('running_mean', 'running_var', 'num_batches_tracked')
    return sum(value.numel() for key, value in state_dict.items() if not key.endswith(statistics))
