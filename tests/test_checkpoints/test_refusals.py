"""Crafted checkpoint files are refused if they ask for more than MMEngine's own checkpoints hold."""
import io
import os
import pickle

import pytest
import torch
from crafted import rewrite
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import _load_checkpoint

from pervit_mm.checkpoints.allow_list import allow_checkpoint_types

pytestmark = pytest.mark.skipif(
    not allow_checkpoint_types(), reason='this PyTorch loads without a list of allowed types')
BUFFER = 'mmengine.logging.history_buffer.HistoryBuffer'


class Op:
    """Pickles as a call of the global ``name``, which need not exist. Then ``state`` is set on the result."""

    def __init__(self, name, *args, state=None):
        self.name, self.args, self.state = name, args, state


class Name:
    """Pickles as the global ``name`` itself."""

    def __init__(self, name):
        self.name = name


class Writer(pickle._Pickler):
    """Writes pickles that no honest program writes."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name):
            module, _, name = obj.name.rpartition('.')
            self.write(b'c' + module.encode() + b'\n' + name.encode() + b'\n')
        elif isinstance(obj, Op):
            if id(obj) in self.memo:  # the same object again
                return self.write(self.get(self.memo[id(obj)][0]))
            self.save(Name(obj.name))
            self.save(obj.args)
            self.write(b'R')
            self.memoize(obj)
            for state in obj.state or []:
                self.save(state)
                self.write(b'b')
        else:
            super().save(obj, save_persistent_id)


class Command:
    """Runs a command when unpickled by plain pickle."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}', )


def write(value, path):
    """A checkpoint file whose pickle is made by :class:`Writer`."""
    torch.save(dict(state_dict={}), path)
    stream = io.BytesIO()
    Writer(stream, 2).dump(dict(value=value))
    rewrite(path, lambda data: stream.getvalue())
    return path


def load(path):
    return _load_checkpoint(str(path))


def array_op(dtype, *states, shape=(0, ), subtype='numpy.ndarray', module='numpy._core'):
    return Op(f'{module}.multiarray._reconstruct', Name(subtype), shape, b'b',
              state=[(1, size, dtype, False, data) for size, data in states])


def dtype_op(spec, order='<', subdtype=None, names=None, fields=None, flags=0):
    return Op('numpy.dtype', spec, False, True,
              state=[(3, order, subdtype, names, fields, -1, -1, flags)])


def test_writer_writes_what_numpy_reads(tmp_path):
    """Without checks, the crafted files below would do harm."""
    stream = io.BytesIO()
    Writer(stream, 2).dump([array_op(dtype_op('f8'), ((2, ), bytes(16))),
                            Op('builtins.getattr', Name(f'{BUFFER}'), 'mean')])
    array, method = pickle.loads(stream.getvalue())
    assert array.tolist() == [0, 0] and method is HistoryBuffer.mean
    marker = tmp_path / 'marker'
    stream = io.BytesIO()
    Writer(stream, 2).dump(Command(marker))
    pickle.loads(stream.getvalue())
    assert marker.exists()


def test_honest_file_from_the_writer_loads(tmp_path):
    loaded = load(write([array_op(dtype_op('f8'), ((2, ), bytes(16)), module=module)
                         for module in ('numpy._core', 'numpy.core')], tmp_path / 'a.pth'))
    assert [array.tolist() for array in loaded['value']] == [[0, 0], [0, 0]]


@pytest.mark.parametrize('value, asked', [
    (Op('builtins.getattr', Name(BUFFER), '__init__'), 'getattr'),
    (Op('builtins.getattr', Op('builtins.getattr', Name(BUFFER), 'mean'), '__globals__'),
     '__globals__'),
    (Op('builtins.getattr', Name('builtins.getattr'), '__globals__'), '__globals__'),
    (Op('builtins.getattr', Name('torch._utils._rebuild_tensor'), '__globals__'), '__globals__'),
    (Op('builtins.getattr', Name(BUFFER), '_statistics_methods'), '_statistics_methods'),
    (Op('builtins.getattr', Name(BUFFER), 'mean', None), 'getattr'),
    (Op('builtins.getattr', Name(BUFFER)), 'getattr'),
    (Op('builtins.getattr', Name('numpy.dtype'), 'mean'), 'getattr'),
    (Op(BUFFER, [1.], [1]), 'a call of HistoryBuffer'),
    (Op('builtins.bytes', 10**12), 'bytes'),
    (Op('numpy.ndarray', (3, ), 'O'), 'a call of numpy.ndarray'),
    (Op('builtins.eval', '1'), 'builtins.eval|eval'),
    (Op('numpy.load', 'file'), 'numpy.load'),
    (Op('numpy.dtypes.ObjectDType'), 'ObjectDType'),
    # `getattr` gives these real methods, but a file cannot call them.
    (Op('mmengine.logging.history_buffer.HistoryBuffer.mean', 1), 'HistoryBuffer'),
])
def test_objects_and_calls_outside_the_list_are_refused(tmp_path, value, asked):
    with pytest.raises(pickle.UnpicklingError, match=asked):
        load(write(value, tmp_path / 'a.pth'))


@pytest.mark.parametrize('value', [
    dtype_op('O8', '|', flags=63), dtype_op('O', '|'), dtype_op('V8', '|'), dtype_op('M8'),
    dtype_op('U'), dtype_op('i4,O'), Op('numpy.dtype', [('a', 'O')]),
    Op('numpy.dtype', dict(names=['a'], formats=['O'])), Op('numpy.dtype', Name('numpy.ndarray')),
    # If numpy took these states, they would crash the interpreter or reach outside an array.
    dtype_op('f8', subdtype=(dtype_op('f8'), (1000, ))),
    dtype_op('f8', names=('a', ), fields={'a': (dtype_op('f8'), 0)}),
    Op('numpy.dtype', 'f8', state=[('<', )]),
])
def test_dtypes_beyond_plain_ones_are_refused(tmp_path, value):
    with pytest.raises(pickle.UnpicklingError, match='numpy dtype'):
        load(write(value, tmp_path / 'a.pth'))


@pytest.mark.parametrize('value', [
    array_op(dtype_op('f8'), ((3, ), bytes(16))),
    array_op(dtype_op('f8'), ((-1, -2), bytes(16))),
    array_op(dtype_op('f8'), ((2**61, ), b'x')),
    array_op(dtype_op('f8'), ((1, ), [Op('builtins.bytes')])),
    array_op('O', ((1, ), [1])),
    array_op(Name('numpy.dtype'), ((1, ), bytes(8))),
    array_op(dtype_op('f8'), shape=(10**12, )),
    array_op(dtype_op('f8'), subtype='numpy.dtype'),
    array_op(dtype_op('f8'), ((2, ), bytes(16)), ((1, ), bytes(8))),
    Op('numpy._core.multiarray.scalar', dtype_op('f8'), bytes(4)),
    Op('numpy._core.multiarray.scalar', 'f8', bytes(8)),
    Op('numpy._core.multiarray.scalar', dtype_op('i8'), 3),
])
def test_malformed_numpy_values_are_refused(tmp_path, value):
    with pytest.raises(pickle.UnpicklingError, match='The checkpoint asks for'):
        load(write(value, tmp_path / 'a.pth'))


def test_array_under_a_tensor_is_not_freed(tmp_path):
    """If an array could be filled twice, a tensor on its memory would use memory that was freed."""
    array = array_op(dtype_op('f8'), ((1000, ), bytes(8000)))
    again = Op('torch._utils._rebuild_device_tensor_from_numpy', array, torch.float64, 'cpu', False)
    loaded = load(write([array, again], tmp_path / 'a.pth'))['value']
    assert loaded[1].tolist() == loaded[0].tolist()
    array.state *= 2
    with pytest.raises(pickle.UnpicklingError, match='filled twice'):
        load(write([array, again], tmp_path / 'a.pth'))


@pytest.mark.parametrize('state, asked', [
    (dict(statistics_methods={'mean': Name('builtins.getattr')}), "the statistic 'mean'"),
    (dict(statistics_methods={'new': Op('builtins.getattr', Name(BUFFER), 'mean')}),
     "the statistic 'new'"),
    (dict(mean=1), "attribute 'mean'"),
    (dict(_statistics_methods={}), "attribute '_statistics_methods'"),
    (dict(_log_history=[1.]), '_log_history'),
    ([], 'HistoryBuffer with the state'),
])
def test_history_buffer_with_a_foreign_state_is_refused(tmp_path, state, asked):
    table = dict(HistoryBuffer()._statistics_methods)  # filled by the first buffer
    path = tmp_path / 'a.pth'
    torch.save(dict(state_dict={}), path)
    stream = io.BytesIO()
    writer = Writer(stream, 2)
    # The pickle makes an empty object (NEWOBJ) and then sets its state (BUILD).
    stream.write(b'\x80\x02cmmengine.logging.history_buffer\nHistoryBuffer\n)\x81')
    writer.save(state)
    stream.write(b'b.')
    rewrite(path, lambda data: stream.getvalue())
    with pytest.raises(pickle.UnpicklingError, match=asked):
        load(path)
    assert HistoryBuffer._statistics_methods == table


@pytest.mark.parametrize('how', ['reduce', 'posix', 'scalar', 'array', 'record', 'rebuilt'])
def test_command_is_not_run(tmp_path, how):
    marker = tmp_path / 'marker'
    payload = pickle.dumps(Command(marker))
    value = dict(
        reduce=Command(marker),
        posix=Op('posix.system', f'touch {marker}'),
        # numpy itself would unpickle the pickle in here.
        scalar=Op('numpy.core.multiarray.scalar', dtype_op('O8', '|', flags=63), payload),
        array=array_op(dtype_op('O8', '|', flags=63), ((1, ), [Command(marker)])),
        record=array_op(dtype_op('V8', '|', names=('a', ), fields={'a': (dtype_op('O8'), 0)}),
                        ((1, ), [(Command(marker), )])),
        rebuilt=Op('pickle.loads', payload))[how]
    with pytest.raises(pickle.UnpicklingError):
        load(write(value, tmp_path / 'a.pth'))
    assert not marker.exists()


def test_checkpoint_array_cannot_be_named(tmp_path):
    for name in ('pervit_mm.CheckpointArray', 'pervit_mm\\nCheckpointArray',
                 'pervit_mm.checkpoints.allow_list.CheckpointArray'):
        with pytest.raises(pickle.UnpicklingError, match='Unsupported global'):
            load(write(Op(name, (3, ), 'O'), tmp_path / 'a.pth'))
    path = tmp_path / 'a.pth'
    for data in (b'\x80\x02cpervit_mm\nCheckpointArray\n.', b'\x80\x02cpervit_mm\nCheckpointArray'):
        rewrite(write(1, path), lambda _: data)  # noqa: B023
        with pytest.raises(pickle.UnpicklingError, match='Unsupported global'):
            load(path)
