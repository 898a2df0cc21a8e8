"""Checkpoint files: read without running code of them, and written whole."""
import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..utils.atomic_write import replacing
from ..utils.errors import UserError
from ..utils.refusals import reading
from .allow_list import allow_not_needed
from .contents import check_archive, non_finite_weights
from .published import PREFIX, load_from_pervit_mm


def read_checkpoint(path: str | Path) -> Any:
    """Load any PyTorch file on the CPU, never running code of it.

    Args:
        path (str | Path): The file, or ``pervit_mm://`` and the name of a published one.

    Returns:
        Any: What it holds, not checked.

    Raises:
        UserError: If it isn't there, can't be read, or asks for an object that isn't on the list; for a published
            one, see :func:`pervit_mm.checkpoints.load_from_pervit_mm`.
    """
    if str(path).startswith(PREFIX):
        return load_from_pervit_mm(str(path), map_location='cpu')
    if not os.path.isfile(path):
        raise UserError(f"path: '{path}' is not a file; give the path of a checkpoint")
    check_archive(path)
    with reading(path), allow_not_needed(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # remarks on odd files, which are refused in our words
        content = torch.load(path, map_location='cpu', weights_only=True)
    if (expanded := find_expanded(content)) is not None:
        raise UserError(f"'{path}' was refused: {expanded} declares more values than the file holds (stride 0), and a "
                        'copy of it would fill the memory')
    return content


def find_expanded(content: Any, name: str = 'content') -> str | None:
    """Name of the first tensor in nested dicts and lists that is larger than its memory; None if there is none."""
    if isinstance(content, Tensor):
        dense = content.layout == torch.strided and not content.is_meta
        large = dense and content.numel() * content.element_size() > content.untyped_storage().nbytes()
        return name if large else None
    items = content.items() if isinstance(content, Mapping) else (
        enumerate(content) if isinstance(content, (list, tuple)) else ())
    return next((found for key, value in items if (found := find_expanded(value, f'{name}[{key!r}]'))), None)


def check_weights(state_dict: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError unless all tensors are weights as a training has them, ahead of copying any.

    Args:
        state_dict (Mapping[str, Tensor]): By name.
        source (str): Where they are from, for the message.

    Raises:
        UserError: Naming the first tensor that is sparse or quantized, has no values (meta), repeats the same memory
            (stride 0), has a type that weights don't have, or holds NaN or infinity.
    """
    for name, tensor in state_dict.items():
        problem = None
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            problem = 'is sparse, quantized or nested'
        elif tensor.is_meta:
            problem = 'has a shape and no values (meta)'
        elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            problem = f'has {tensor.numel():,} values in {tensor.untyped_storage().nbytes():,} bytes (stride 0)'
        elif not tensor.is_floating_point() and tensor.dtype not in (torch.int64, torch.int32):
            problem = f'is {tensor.dtype}; weights are floating point, counters int64'
        elif name in non_finite_weights({name: tensor}):
            problem = 'holds NaN or infinity'
        if problem:
            raise UserError(f"{source}: {name!r} {problem}: take another checkpoint of the training")


def entry_of(content: Any, name: str) -> Any:
    """``content[name]`` if there is such an entry, or else ``content``, which may be any object."""
    return content.get(name, content) if isinstance(content, Mapping) else content


def has_backbone(content: Any) -> bool:
    """Whether there are keys of OpenMMLab's layout, which begin with ``backbone.``."""
    return isinstance(content, Mapping) and any(str(key).startswith('backbone.') for key in content)


def is_state_dict(content: Any) -> bool:
    """Whether it maps names to tensors, at least one."""
    return isinstance(content, Mapping) and len(content) > 0 and all(isinstance(v, Tensor) for v in content.values())


def beginnings(names: Iterable) -> str:
    """What most names begin with, for messages."""
    counts = Counter(str(name).split('.')[0] for name in names)
    return ', '.join(f'{name} ({count})' for name, count in counts.most_common(6)) or 'nothing'


def describe(content: Any) -> str:
    """What a file holds, for messages."""
    return f'a dict with {beginnings(content)}' if isinstance(content, Mapping) else f'a {type(content).__name__}'


def read_classifier(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict from a checkpoint of ours, never running code of the file.

    Args:
        path (str | Path): What MMEngine's runner or tools/model_converters/pervit_to_mm.py wrote, or a state dict
            alone; or as :func:`read_checkpoint` takes it.

    Returns:
        dict[str, Tensor]: On the CPU, with our keys, which are not checked yet.

    Raises:
        UserError: As :func:`read_checkpoint` does, or if the file holds something else.
    """
    return classifier_weights(read_checkpoint(path), path)


def classifier_weights(content: Any, path: str | Path) -> dict[str, Tensor]:
    """The state dict in what :func:`read_checkpoint` returned; see :func:`read_classifier`."""
    if is_state_dict(state := entry_of(content, 'state_dict')) and has_backbone(state):
        return dict(state)
    raise UserError(f"'{path}' is not a checkpoint of a model with a backbone, which is a dict whose 'state_dict' "
                    "has keys that begin with 'backbone.', or that dict alone: it holds "
                    f"{describe(entry_of(content, 'state_dict'))}; for the authors' files there is "
                    'tools/model_converters/pervit_to_mm.py')


def own_tensor(tensor: Tensor) -> Tensor:
    """Copy a tensor into a storage of its own, contiguous: of a view, torch.save would write all that it looks at."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def to_bytes(content: dict) -> bytes:
    """What ``torch.save`` writes, under no file's name: with one it would be part of the bytes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def check_target(path: str | Path, force: bool = False) -> None:
    """Raise UserError if :func:`write_checkpoint` could not, or should not, write there."""
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"'{path}' cannot be written; give the path of a file in a folder that exists")
    if path.exists() and not force:
        raise UserError(f"'{path}' exists already; give another path, or --force to replace it")


def write_checkpoint(content: dict, path: str | Path, force: bool = False) -> str:
    """Save ``content`` so that the place only ever holds a whole file.

    Args:
        content (dict): What ``torch.save`` gets.
        path (str | Path): Where to; written beside it first and then renamed.
        force (bool): Whether an existing file may be replaced. Defaults to False.

    Returns:
        str: The first 8 digits of the file's sha256, as OpenMMLab has them in file names.

    Raises:
        UserError: See :func:`check_target`.
    """
    check_target(path, force)
    data = to_bytes(content)
    with replacing(path) as writer:
        writer.write(data)
    return hashlib.sha256(data).hexdigest()[:8]
