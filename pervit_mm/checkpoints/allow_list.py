"""Let ``torch.load(weights_only=True)`` read the checkpoints that MMEngine writes.

Since 2.6 PyTorch loads with ``weights_only=True``: a file may name only what is on a list. MMEngine
0.10.7 neither asks for anything else nor adds to that list, so it cannot resume from its own files:
they hold the logger's ``HistoryBuffer`` objects, which hold numpy arrays.

:func:`allow_checkpoint_types` puts these names on the list. It never sets ``weights_only=False``,
and it doesn't hand out the real objects either, because each of them opens a door:

- ``getattr`` reaches ``__globals__`` of any function, and from there everything;
- a ``numpy.dtype`` on the unpickler's stack takes any state a file gives it, so that its size or
  its fields no longer fit the data (seen: a crash of the interpreter);
- object arrays and object scalars hold whatever the file puts there (numpy 2.4 refuses the scalar
  by itself, which is no promise for other releases);
- an array that is filled a second time frees the memory of the first, which a tensor may still use
  (seen: the tensor then showed foreign memory);
- a ``HistoryBuffer`` puts whatever functions its state names into a table of the whole process.

So every name on the list stands for something of ours, which accepts what such a file really holds
and raises :class:`pickle.UnpicklingError`, naming what was asked for, on everything else.
"""

import math
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version

# What MMEngine pickles by attribute: `HistoryBuffer._set_default_statistics` registers these four.
STATISTICS = ('mean', 'max', 'min', 'current')

# Booleans, integers, floats, complex numbers, bytes and text of a stated size. Not among them, on
# purpose: objects (O), records (V) and times (M, m), whose dtype needs more than this one word.
_PLAIN_DTYPE = re.compile(r'[biufcSU]\d{1,9}')


def _refuse(what: str, allowed: str) -> None:
    raise pickle.UnpicklingError(
        f'The checkpoint asks for {what}. pervit_mm allows {allowed}, because that is all that '
        "MMEngine's checkpoints hold. If you trust the file and need more, see "
        'torch.serialization.add_safe_globals.')


class _DtypeRecord:
    """Stands for ``numpy.dtype`` in a file: remembers the word and the byte order, nothing else.

    The real dtype is made from these two when an array or scalar is filled, and never lies on the
    unpickler's stack, where a file could change it.

    Args:
        spec (str): Kind and size, like ``'f8'``.
        align (bool): Written by numpy, without meaning for plain types.
        copy (bool): Written by numpy, without meaning for plain types.
    """

    def __init__(self, spec: str, align: bool = False, copy: bool = False) -> None:
        if not isinstance(spec, str) or not _PLAIN_DTYPE.fullmatch(spec):
            _refuse(f'the numpy dtype {spec!r}',
                    'booleans, numbers and fixed-size text (no object, record or time dtypes)')
        self.spec = spec
        self.order = '='

    def __setstate__(self, state: tuple) -> None:
        """Take the byte order from ``state``.

        Args:
            state (tuple): (3, order, subdtype, names, fields, size, alignment, flags).
        """
        if (not isinstance(state, tuple) or len(state) != 8 or state[1] not in ('<', '>', '|', '=')
                or any(part is not None for part in state[2:5])):
            _refuse(f'a numpy dtype with the state {state!r}', 'plain dtypes with a byte order')
        self.order = state[1]

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.order}{self.spec})'

    def resolve(self) -> np.dtype:
        """Make the real dtype."""
        return np.dtype(self.spec).newbyteorder(self.order)


def _resolve(record: _DtypeRecord) -> np.dtype:
    # A file may create a record without calling __init__, hence the look at its attributes.
    if type(record) is not _DtypeRecord or not {'spec', 'order'} <= vars(record).keys():
        _refuse(f'a numpy value whose dtype is {record!r}', 'plain dtypes')
    return record.resolve()


class CheckpointArray(np.ndarray):
    """A numpy array read from a checkpoint.

    It is a class of its own only so that what fills it can be checked: dtype, shape and number of
    bytes must fit, and it is filled once. Otherwise it is an array like any other. Arrays inside a
    ``HistoryBuffer`` become plain arrays again, and saving one writes a plain array.
    """

    def __setstate__(self, state: tuple) -> None:
        """Fill the array. ``state`` is (1, shape, dtype, is_fortran, data), as numpy writes it."""
        if self.size or self.dtype != np.int8:
            _refuse('an array that is filled twice', 'arrays that are filled once')
        if not isinstance(state, tuple) or len(state) != 5:
            _refuse('an array in another form than (version, shape, dtype, is_fortran, data)',
                    'arrays as numpy writes them')
        version, shape, record, is_fortran, data = state
        dtype = _resolve(record)
        if (version != 1 or not isinstance(shape, tuple)
                or not all(type(size) is int and size >= 0 for size in shape)
                or type(data) is not bytes or len(data) != math.prod(shape) * dtype.itemsize):
            _refuse(f'an array of shape {shape!r} and dtype {dtype} that does not fit its data',
                    'arrays as numpy writes them')
        super().__setstate__((1, shape, dtype, bool(is_fortran), data))

    def __reduce_ex__(self, protocol: int) -> tuple:
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _array_type(*args, **kwargs) -> None:
    """Stands for ``numpy.ndarray`` in a file, where it is an argument and never called."""
    _refuse('a call of numpy.ndarray', 'arrays as numpy writes them')


def _empty_array(subtype, shape: tuple, dtype) -> CheckpointArray:
    """Stands for numpy's ``_reconstruct``: the empty array that the file's next step fills."""
    if subtype is not _array_type or shape != (0, ) or dtype not in (b'b', 'b'):
        _refuse(f'numpy.core.multiarray._reconstruct({subtype!r}, {shape!r}, {dtype!r})',
                "_reconstruct(numpy.ndarray, (0,), b'b')")
    return np.ndarray.__new__(CheckpointArray, (0, ), np.int8)


def _scalar(record: _DtypeRecord, data: bytes = b'') -> np.generic:
    """Stands for numpy's ``scalar``: one number or text of a plain dtype."""
    dtype = _resolve(record)
    if type(data) is not bytes or len(data) != dtype.itemsize:
        _refuse(f'a numpy scalar of dtype {dtype} made from {data!r}',
                f'{dtype.itemsize} bytes for it')
    return np.frombuffer(data, dtype)[0] if data else np.zeros((), dtype)[()]


class _CheckedHistoryBuffer(HistoryBuffer):
    """Stands for ``HistoryBuffer`` in a file and becomes a real one when its state has passed."""

    def __init__(self, *args, **kwargs) -> None:
        _refuse('a call of HistoryBuffer', 'HistoryBuffer objects as pickle writes them')

    def __setstate__(self, state: dict) -> None:
        """Check the state, take it and turn into a plain ``HistoryBuffer``."""
        if type(state) is not dict:
            _refuse(f'a HistoryBuffer with the state {state!r}', 'a dict')
        # Only what this process has under the same name, so that the table of the class, which all
        # buffers share, is never changed by a file.
        self._set_default_statistics()
        for name, method in state.get('statistics_methods', {}).items():
            if self._statistics_methods.get(name) is not method:
                _refuse(f'{method!r} as the statistic {name!r} of HistoryBuffer',
                        'the statistics registered in this process (import the module that '
                        'registers yours before loading)')
        values = {key: value for key, value in state.items() if key != 'statistics_methods'}
        for key in values:
            if not isinstance(key, str) or hasattr(HistoryBuffer, key):
                _refuse(f'a HistoryBuffer whose attribute {key!r} hides one of its class',
                        'data attributes')
        for key in ('_log_history', '_count_history'):
            if not isinstance(values.get(key), np.ndarray) or values[key].ndim != 1:
                _refuse(f'a HistoryBuffer whose {key} is {values.get(key)!r}', 'arrays of one axis')
            values[key] = np.array(values[key], subok=False)
        self.__dict__.update(values)
        self.__class__ = HistoryBuffer


def _empty_bytes(*args) -> bytes:
    """Stands for ``bytes`` in a file, which pickle calls to make the data of an empty array."""
    if args:
        _refuse(f'bytes{args!r}', 'bytes()')
    return b''


def _get_statistic(*args):
    """Stands for ``getattr`` in a file: gives the four statistics of ``HistoryBuffer``, no more."""
    if (len(args) != 2 or args[0] not in (_CheckedHistoryBuffer, HistoryBuffer)
            or not isinstance(args[1], str) or args[1] not in STATISTICS):
        _refuse(f'getattr{args!r}', f'getattr of HistoryBuffer and one of {", ".join(STATISTICS)}')
    return getattr(HistoryBuffer, args[1])


# What a file names -> what it gets. numpy 1 and 2 write the same objects under different modules.
_STAND_INS = (
    ('mmengine.logging.history_buffer.HistoryBuffer', _CheckedHistoryBuffer),
    ('builtins.getattr', _get_statistic),
    ('builtins.bytes', _empty_bytes),
    ('numpy.dtype', _DtypeRecord),
    ('numpy.ndarray', _array_type),
    ('numpy.core.multiarray._reconstruct', _empty_array),
    ('numpy._core.multiarray._reconstruct', _empty_array),
    ('numpy.core.multiarray.scalar', _scalar),
    ('numpy._core.multiarray.scalar', _scalar),
    # The unpickler fills only types that are on the list. This one no file can name: in a pickle a
    # name ends at the line break.
    ('pervit_mm\nCheckpointArray', CheckpointArray),
)


def allow_checkpoint_types() -> bool:
    """Allow what MMEngine's checkpoints hold under ``torch.load(weights_only=True)``.

    :func:`check_loading` calls it; more calls change nothing. It covers files of MMPretrain,
    MMDetection and MMSegmentation alike (they save through the same runner), written under numpy
    1 or 2, with or without EMA. It changes nothing where PyTorch is older than 2.6, which loads
    everything.

    Not covered: ``OneCycleLR`` and ``OneCycleMomentum``, whose state holds a function that only
    ``getattr`` reaches. The list is one for the whole process: a project that puts numpy's or
    MMEngine's real objects on it under the same names gives up the checks made here.

    Returns:
        bool: Whether this PyTorch has such a list and the names are on it.
    """
    # 2.4 and 2.5 know the list, but not entries with a name of their own, and don't need it.
    if digit_version(torch.__version__) < digit_version('2.6.0'):
        return False
    torch.serialization.add_safe_globals([(stand_in, name) for name, stand_in in _STAND_INS])
    return True


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
# to put them into `args`. Numbers of numpy are allowed for the whole process by `allow_checkpoint_types`.
_NOT_NEEDED = [
    type(name, (_Inert, ), dict(__module__=module, __slots__=()))
    for module, name in (('argparse', 'Namespace'), ('pathlib', 'PosixPath'), ('pathlib', 'WindowsPath'),
                         ('pathlib._local', 'PosixPath'), ('pathlib._local', 'WindowsPath'))
]


@contextmanager
def allow_not_needed() -> Iterator[None]:
    """Extend PyTorch's list for as long as one file is read (2.4 has no such context itself)."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_NOT_NEEDED)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
