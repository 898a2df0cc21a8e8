"""Checkpoint files of the authors' code, to ours and back.

First comes which key is which; then what surrounds it. The authors' file is a dict of the state dict (``model``), the
states of optimizer and scheduler, the epoch, and ``args``, an ``argparse.Namespace``.
"""
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models import PerViT
from ..models.arch import resolve_arch
from ..utils.errors import UserError, UserTypeError
from ..version import __version__
from .files import beginnings, describe, entry_of, has_backbone, is_state_dict, own_tensor, read_checkpoint

#: (theirs, ours) for what one block holds. ``{i}`` is the block.
_BLOCK = (
    ('blocks.{i}.norm1', 'backbone.blocks.{i}.norm1', 'wb'),
    ('blocks.{i}.conv.proj', 'backbone.blocks.{i}.cpe.conv', 'wb'),
    ('blocks.{i}.attn.to_qkv', 'backbone.blocks.{i}.attn.qkv', 'w'),
    ('blocks.{i}.attn.proj', 'backbone.blocks.{i}.attn.proj', 'wb'),
    ('blocks.{i}.attn.activation.conv1', 'backbone.blocks.{i}.attn.position.conv1', 'wb'),
    ('blocks.{i}.attn.activation.gn1', 'backbone.blocks.{i}.attn.position.norm1', 'wb'),
    ('blocks.{i}.attn.activation.conv2', 'backbone.blocks.{i}.attn.position.conv2', 'wb'),
    ('blocks.{i}.attn.activation.gn2', 'backbone.blocks.{i}.attn.position.norm2', 'wb'),
    ('blocks.{i}.norm2', 'backbone.blocks.{i}.norm2', 'wb'),
    ('blocks.{i}.mlp.fc1', 'backbone.blocks.{i}.ffn.fc1', 'wb'),
    ('blocks.{i}.mlp.fc2', 'backbone.blocks.{i}.ffn.fc2', 'wb'),
)
_TENSORS = {
    'w': ('weight', ),
    'wb': ('weight', 'bias'),
    'bn': ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
}


def key_pairs() -> list[tuple[str, str]]:
    """Every key of an official checkpoint beside ours; all three sizes have the same keys.

    Returns:
        list[tuple[str, str]]: ``(theirs, ours)``, ours as ``ImageClassifier`` of configs/pervit_*.py has them.
    """
    arch = resolve_arch('tiny')
    modules = []
    for i in range(len(arch['stem_channels']) + 1):
        modules.append((f'conv_layers.conv_layers.{i}.0', f'backbone.stem.layers.{i}.conv', 'wb'))
        modules.append((f'conv_layers.conv_layers.{i}.1', f'backbone.stem.layers.{i}.norm', 'bn'))
    modules.append(('conv_layers.conv1x1', 'backbone.stem.proj', 'wb'))
    modules.append(('rpe_proj', 'backbone.position_proj', 'wb'))
    num_layers = sum(arch['depths'])
    stage_ends = [sum(arch['depths'][:k]) - 1 for k in range(1, len(arch['depths']))]
    for i in range(num_layers):
        modules += [(theirs.format(i=i), ours.format(i=i), kind) for theirs, ours, kind in _BLOCK]
        if i in stage_ends:
            modules.append((f'blocks.{i}.res_path', f'backbone.blocks.{i}.shortcut', 'wb'))
    modules.append(('norm', f'backbone.norm{num_layers - 1}', 'wb'))
    modules.append(('head', 'head.fc', 'wb'))
    return [(f'{theirs}.{name}', f'{ours}.{name}') for theirs, ours, kind in modules
            for name in _TENSORS[kind]]


def _natural(keys: Iterable[str]) -> list[str]:
    """Sort keys with block 2 ahead of block 10."""
    return sorted(keys, key=lambda key: [int(p) if p.isdigit() else p for p in re.split(r'(\d+)', key)])


def _rename(state_dict: Mapping[str, Tensor], names: dict[str, str], layout: str) -> dict[str, Tensor]:
    unknown, missing = _natural(set(state_dict) - set(names)), _natural(set(names) - set(state_dict))
    if unknown or missing:
        raise UserError(f'state_dict is not a PerViT checkpoint in {layout}: '
                        f'unknown keys {unknown or "none"}, missing keys {missing or "none"}')
    return {names[key]: tensor for key, tensor in state_dict.items()}


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of an official PerViT state dict to those of MMPretrain's ``ImageClassifier``.

    The authors' file is a dict whose entry ``model`` is the state dict.

    Args:
        state_dict (Mapping[str, Tensor]): In the authors' key layout, tiny, small or medium.

    Returns:
        dict[str, Tensor]: The same tensors under the names that configs/pervit_*.py load strictly.

    Raises:
        UserTypeError: If it is no dict, such as the path of the file.
        UserError: Naming every unknown and every missing key.
    """
    if not isinstance(state_dict, Mapping):
        raise UserTypeError(f"state_dict must be a dict of tensors, the entry 'model' of the authors' file, got "
                            f'{type(state_dict).__name__}')
    return _rename(state_dict, dict(key_pairs()), "the authors' key layout")


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of :func:`from_official`.

    Args:
        state_dict (Mapping[str, Tensor]): Of an ``ImageClassifier`` with PerViT tiny, small or medium.

    Returns:
        dict[str, Tensor]: The same tensors in the authors' key layout.

    Raises:
        UserError: Naming every unknown and every missing key.
    """
    return _rename(state_dict, {ours: theirs for theirs, ours in key_pairs()}, "pervit_mm's key layout")


#: Sizes that the authors' checkpoints come in.
SIZES = ('tiny', 'small', 'medium')


def read_official(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict from a file in the authors' layout, never running code of the file.

    Args:
        path (str | Path): A file with a dict whose ``model`` is the state dict, or with the state dict alone.

    Returns:
        dict[str, Tensor]: On the CPU, with the authors' keys; not checked yet, see :func:`convert_official`.

    Raises:
        UserError: If the file isn't there, can't be read, asks for an object that isn't on the list, or holds
            something else.
    """
    content = read_checkpoint(path)
    if has_backbone(entry_of(content, 'state_dict')):
        raise UserError(f"'{path}' has OpenMMLab's layout already (keys that begin with 'backbone.'), so there is "
                        "nothing to convert; the way back is tools/model_converters/mm_to_pervit.py")
    if is_state_dict(state := entry_of(content, 'model')):
        return dict(state)
    raise UserError(f"'{path}' is not a checkpoint of the authors' code, which is a dict whose 'model' is a state "
                    f'dict of tensors, or that state dict alone: it holds {describe(content)}')


def recognize_size(state_dict: Mapping[str, Tensor]) -> str:
    """Tell the size from the widths of the four stages.

    Args:
        state_dict (Mapping[str, Tensor]): In the authors' key layout or in ours; the head plays no part.

    Returns:
        str: 'tiny', 'small' or 'medium'.

    Raises:
        UserError: If a key is not a string or a value not a dense tensor, if the widths are of none of them, or if the
            blocks aren't there; it says what was found.
    """
    for key, value in state_dict.items():
        # A crafted file can also hold sparse tensors, and tensors without values.
        dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
        if not dense or not isinstance(key, str):
            raise UserError(f'state_dict must map names to dense tensors, got {key!r}: {type(value).__name__}')
    depths = resolve_arch('tiny')['depths']  # the same in all three
    keys = [f'blocks.{sum(depths[:k])}.norm1.weight' for k in range(len(depths))]
    prefix = 'backbone.' if has_backbone(state_dict) else ''
    shapes = [tuple(state_dict[prefix + key].shape) if prefix + key in state_dict else 'missing' for key in keys]
    widths = {size: resolve_arch(size)['embed_dims'] for size in SIZES}
    for size in SIZES:
        if shapes == [(width, ) for width in widths[size]]:
            return size
    found = ', '.join(f'{prefix}{key} is {shape}' for key, shape in zip(keys, shapes))  # of each stage's first block
    raise UserError(f'state_dict is not PerViT {", ".join(f"{size} {widths[size]}" for size in SIZES)}: {found}; its '
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
        raise UserError(f'state_dict has the stages of PerViT {size}, but other shapes: {"; ".join(wrong[:5])}{more}')
    return num_classes


def convert_official(state_dict: Mapping[str, Tensor],
                     backbone_only: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Turn an official state dict into one for ``ImageClassifier`` of configs/pervit_*.py.

    A classifier is backbone and head. Without the head all keys still begin with ``backbone.``: one
    ``init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.')`` takes the backbone from this file, from the
    full one and from a training of ours alike.

    Args:
        state_dict (Mapping[str, Tensor]): In the authors' key layout, of any dtype, which is kept.
        backbone_only (bool): Whether the head is left out, for other classes or dense tasks. Defaults to False.

    Returns:
        tuple[dict[str, Tensor], dict]: Plain tensors under our keys; and ``size``, ``num_classes`` of the official
        head (also where it is dropped), ``dropped``, our keys that were left out, and ``pervit_mm_version``.

    Raises:
        UserError: If a key is not a string or a value not a dense tensor, if the size is none of the official ones, if
            keys are unknown or missing (all are named), or if a tensor has another shape (the first are named).
    """
    size = recognize_size(state_dict)
    ours = from_official(state_dict)
    num_classes = _check_shapes(ours, size, {own: theirs for theirs, own in key_pairs()})
    dropped = [key for key in ours if backbone_only and not key.startswith('backbone.')]
    meta = dict(size=size, num_classes=num_classes, dropped=dropped, pervit_mm_version=__version__)
    return {key: own_tensor(value) for key, value in ours.items() if key not in dropped}, meta


def revert_to_official(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Inverse of :func:`convert_official`.

    Args:
        state_dict (Mapping[str, Tensor]): Of an ``ImageClassifier`` with PerViT tiny, small or medium, head included.

    Returns:
        tuple[dict[str, Tensor], dict]: Plain tensors under the authors' keys; and ``size``, ``num_classes``.

    Raises:
        UserError: As :func:`convert_official` does, with our keys.
    """
    size = recognize_size(state_dict)
    official = to_official(state_dict)
    num_classes = _check_shapes(state_dict, size, {key: key for key in state_dict})
    return {key: own_tensor(value) for key, value in official.items()}, dict(size=size, num_classes=num_classes)


def count_parameters(state_dict: Mapping[str, Tensor]) -> int:
    """Count the parameters in a state dict of either layout, without BatchNorm's statistics."""
    statistics = ('running_mean', 'running_var', 'num_batches_tracked')
    return sum(value.numel() for key, value in state_dict.items() if not key.endswith(statistics))
