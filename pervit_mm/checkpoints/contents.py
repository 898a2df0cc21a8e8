"""What a checkpoint holds that must not be believed."""
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..utils.errors import UserError


def check_archive(path: str | Path) -> None:
    """Raise UserError for a zip file that would grow when it is read, or that has changed since it was written.

    PyTorch stores its entries as they are. Compressed ones declare any size: 13 MB may become gigabytes. It also stores
    a checksum (CRC-32) of each entry, and does not look at it: a flipped bit would be a wrong weight.

    Args:
        path (str | Path): A file, zip or not.

    Raises:
        UserError: With the numbers, or the entry.
    """
    if not zipfile.is_zipfile(path):
        return  # PyTorch's older format, which is read from the file's own bytes, or no checkpoint at all
    size = os.path.getsize(path)
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(entry.file_size for entry in archive.infolist())
            damaged = archive.testzip() if declared <= size else None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"'{path}' is damaged ({error}), and it was not read: take another copy") from error
    if declared > size:
        raise UserError(f"'{path}' has {size:,} bytes and declares {declared:,}: PyTorch compresses nothing, so it is "
                        'no checkpoint of PyTorch, and it was not read')
    if damaged:
        raise UserError(f"'{path}' is damaged: the content of its entry {damaged!r} is not what was written. It was "
                        'not read: take another copy')


def drop_config(checkpoint: Any) -> bool:
    """Remove ``meta['config']``, which MMEngine runs as Python code when it resumes.

    The files that MMEngine writes have ``meta['cfg']`` instead, which nothing runs.

    Args:
        checkpoint (Any): What was read; changed in place.

    Returns:
        bool: Whether there was such an entry.
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    return isinstance(meta, dict) and meta.pop('config', None) is not None


def non_finite_weights(state_dict: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity.

    Args:
        state_dict (Mapping[str, Tensor]): Weights and buffers of any dtype.

    Returns:
        list[str]: In the order of ``state_dict``; empty if all is well.
    """
    # log Φp of a deployed model may be minus infinity, where Φp is 0.
    return [name for name, tensor in state_dict.items()
            if (tensor.is_floating_point() or tensor.is_complex()) and '.attn.position.grid_' not in name
            and not bool(torch.isfinite(tensor).all())]
