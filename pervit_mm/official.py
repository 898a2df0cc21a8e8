"""Checkpoint files of the authors' code, to ours and back.

:mod:`pervit_mm.official_keys` knows which key is which; here is what surrounds it. The authors' file is a dict of the
state dict (``model``), the states of optimizer and scheduler, the epoch, and ``args``, an ``argparse.Namespace``.
"""
import hashlib
import os
import pickle
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .models import PerViT
from .models.arch import resolve_arch
from .official_keys import from_official, key_pairs, to_official
from .version import __version__

#: Sizes that the authors' checkpoints come in.
SIZES = ('tiny', 'small', 'medium')


class _Inert:
    """Stands for an object of a file that nobody here needs: takes whatever the file gives it and keeps nothing.

    On the real ``argparse.Namespace`` a file could have ``setattr`` called, ``__class__`` included.
    """
    __slots__ = ()

    def __new__(cls, *args, **kwargs) -> '_Inert':
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


# The list goes by the names that a class says it has, in every PyTorch. Paths are here because training scripts like
# to put them into `args`. Numbers of numpy are allowed for the whole process by `engine.allow_checkpoint_types`.
_NOT_NEEDED = [
    type(name, (_Inert, ), dict(__module__=module, __slots__=()))
    for module, name in (('argparse', 'Namespace'), ('pathlib', 'PosixPath'), ('pathlib', 'WindowsPath'),
                         ('pathlib._local', 'PosixPath'), ('pathlib._local', 'WindowsPath'))
]


@contextmanager
def _allow_not_needed() -> Iterator[None]:
    """Extend PyTorch's list for as long as one file is read (2.4 has no such context itself)."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_NOT_NEEDED)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def read_checkpoint(path: str | Path) -> Any:
    """Load any PyTorch file on the CPU, never running code of it.

    Args:
        path (str | Path): The file.

    Returns:
        Any: What it holds, not checked.

    Raises:
        ValueError: If it isn't there, can't be read, or asks for an object that isn't on the list.
    """
    if not os.path.isfile(path):
        raise ValueError(f"path: '{path}' is not a file; give the path of a checkpoint")
    try:
        with _allow_not_needed(), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # remarks on odd files, which are refused below in our words
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged or crafted file fails in whatever way it likes
        refused = isinstance(error, pickle.UnpicklingError)
        # PyTorch wraps the reason of a refusal in advice, which begins with turning the protection off.
        reason = str(error.__context__ or error) if refused else str(error)
        asked = re.search(r'GLOBAL (\S+) |checkpoint asks for (.+?)\. pervit_mm', reason)
        if refused and asked:
            raise ValueError(
                f"'{path}' was refused and nothing of it was executed: it asks for {asked[1] or asked[2]}, and only "
                'tensors, numbers, text, their containers, argparse.Namespace and paths are allowed. If you trust the '
                'file, open it where it was made and save its state dict alone with torch.save') from error
        raise ValueError(f"'{path}' cannot be read as a PyTorch checkpoint ({type(error).__name__}: "
                         f'{reason.splitlines()[0].split(". ")[0] if reason else "it ends too early"}), and nothing of '
                         'it was executed; check that it is one and complete') from error


def _entry(content: Any, name: str) -> Any:
    return content.get(name, content) if isinstance(content, Mapping) else content


def _has_backbone(content: Any) -> bool:
    return isinstance(content, Mapping) and any(str(key).startswith('backbone.') for key in content)


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and len(content) > 0 and all(isinstance(v, Tensor) for v in content.values())


def _beginnings(names: Iterable) -> str:
    """What most names begin with, for messages."""
    counts = Counter(str(name).split('.')[0] for name in names)
    return ', '.join(f'{name} ({count})' for name, count in counts.most_common(6)) or 'nothing'


def _describe(content: Any) -> str:
    return f'a dict with {_beginnings(content)}' if isinstance(content, Mapping) else f'a {type(content).__name__}'


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
    if _has_backbone(_entry(content, 'state_dict')):
        raise ValueError(f"'{path}' has OpenMMLab's layout already (keys that begin with 'backbone.'), so there is "
                         "nothing to convert; the way back is tools/model_converters/mm_to_pervit.py")
    if _is_state_dict(state := _entry(content, 'model')):
        return dict(state)
    raise ValueError(f"'{path}' is not a checkpoint of the authors' code, which is a dict whose 'model' is a state "
                     f'dict of tensors, or that state dict alone: it holds {_describe(content)}')


def read_classifier(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict from a checkpoint of ours, never running code of the file.

    Args:
        path (str | Path): What MMEngine's runner or :func:`convert_official` wrote, or a state dict alone.

    Returns:
        dict[str, Tensor]: On the CPU, with our keys; not checked yet, see :func:`revert_to_official`.

    Raises:
        ValueError: As :func:`read_official` does.
    """
    content = read_checkpoint(path)
    if _is_state_dict(state := _entry(content, 'state_dict')) and _has_backbone(state):
        return dict(state)
    raise ValueError(f"'{path}' is not a checkpoint of a classifier of MMPretrain, which is a dict whose 'state_dict' "
                     "has keys that begin with 'backbone.', or that dict alone: it holds "
                     f"{_describe(_entry(content, 'state_dict'))}; for the authors' files there is "
                     'tools/model_converters/pervit_to_mm.py')


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
    prefix = 'backbone.' if _has_backbone(state_dict) else ''
    shapes = [tuple(state_dict[prefix + key].shape) if prefix + key in state_dict else 'missing' for key in keys]
    widths = {size: resolve_arch(size)['embed_dims'] for size in SIZES}
    for size in SIZES:
        if shapes == [(width, ) for width in widths[size]]:
            return size
    found = ', '.join(f'{prefix}{key} is {shape}' for key, shape in zip(keys, shapes))  # of each stage's first block
    raise ValueError(f'state_dict is not PerViT {", ".join(f"{size} {widths[size]}" for size in SIZES)}: {found}; its '
                     f'{len(state_dict)} keys begin with {_beginnings(state_dict)}')


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


def own_tensor(tensor: Tensor) -> Tensor:
    """Copy a tensor into a storage of its own, contiguous: of a view, torch.save would write all that it looks at."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


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


def check_target(path: str | Path, force: bool = False) -> None:
    """Raise ValueError if :func:`write_checkpoint` could not, or should not, write there."""
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"'{path}' cannot be written; give the path of a file in a folder that exists")
    if path.exists() and not force:
        raise ValueError(f"'{path}' exists already; give another path, or --force to replace it")


def write_checkpoint(content: dict, path: str | Path, force: bool = False) -> str:
    """Save ``content`` so that the place only ever holds a whole file.

    Args:
        content (dict): What ``torch.save`` gets.
        path (str | Path): Where to; written beside it first and then renamed.
        force (bool): Whether an existing file may be replaced. Defaults to False.

    Returns:
        str: The first 8 digits of the file's sha256, as OpenMMLab has them in file names.

    Raises:
        ValueError: See :func:`check_target`.
    """
    check_target(path := Path(path), force)
    handle, partial = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    try:
        with os.fdopen(handle, 'wb') as writer:
            torch.save(content, writer)
        digest = hashlib.sha256(Path(partial).read_bytes()).hexdigest()
        os.chmod(partial, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)
    return digest[:8]
