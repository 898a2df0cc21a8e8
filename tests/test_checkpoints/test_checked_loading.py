"""No MMEngine runs code of a file: neither this one nor those that ask PyTorch for it."""
import os
import types
import warnings

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as loaders
from mmengine.runner.checkpoint import _load_checkpoint

from pervit_mm.checkpoints import checked_loading
from pervit_mm.checkpoints.allow_list import allow_checkpoint_types
from pervit_mm.checkpoints.checked_loading import check_loading, loads_are_checked

needs_list = pytest.mark.skipif(
    not allow_checkpoint_types(), reason='this PyTorch loads without a list of allowed types')


def load_unchecked(filename, map_location=None):
    """What MMEngine 0.11.0rc3 does."""
    return torch.load(filename, map_location=map_location, weights_only=False)


def load_twice(filename, map_location=None):
    """What onedl-mmengine 0.10.12 does: the real objects first, and no list at all after a refusal."""
    try:
        with torch.serialization.safe_globals([getattr, HistoryBuffer]):
            return torch.load(filename, map_location=map_location, weights_only=True)
    except Exception:
        return torch.load(filename, map_location=map_location, weights_only=False)


def as_in_mmengine(function):
    """The function as if MMEngine's module of loaders had it."""
    return types.FunctionType(function.__code__, vars(loaders), function.__name__, function.__defaults__)


class Command:
    """Runs a command when unpickled by plain pickle."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}', )


@pytest.fixture
def crafted(tmp_path):
    """A file, and what it makes when it is run."""
    torch.save(dict(state_dict=Command(tmp_path / 'executed')), tmp_path / 'crafted.pth')
    return str(tmp_path / 'crafted.pth'), tmp_path / 'executed'


@pytest.mark.parametrize('load', [load_unchecked, load_twice])
def test_the_file_runs_its_command_where_nothing_checks(crafted, load):
    path, executed = crafted
    load(path)
    assert executed.exists()


@needs_list
@pytest.mark.parametrize('load', [None, load_unchecked])
@pytest.mark.parametrize('variable', [None, 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'])
def test_a_crafted_file_is_refused_by_every_mmengine(crafted, monkeypatch, load, variable):
    path, executed = crafted
    if load:
        monkeypatch.setitem(CheckpointLoader._schemes, '', as_in_mmengine(load))
    if variable:
        monkeypatch.setenv(variable, '1')
    with pytest.raises(Exception, match='posix.system|nt.system'):
        _load_checkpoint(path)
    assert not executed.exists()


@needs_list
def test_the_fork_s_own_function_gets_no_real_objects(crafted, monkeypatch):
    """It is replaced as a whole: else it would put the real objects beside the checked ones."""
    path, executed = crafted
    monkeypatch.setattr(loaders, '_safe_torch_load', load_twice, raising=False)
    monkeypatch.setitem(CheckpointLoader._schemes, '', as_in_mmengine(
        lambda filename, map_location=None: _safe_torch_load(filename, map_location)))  # noqa: F821
    assert not loads_are_checked()
    assert check_loading() and loaders._safe_torch_load is not load_twice
    with pytest.raises(Exception, match='posix.system|nt.system'):
        _load_checkpoint(path)
    assert not executed.exists()


@pytest.mark.parametrize('load', [load_unchecked, load_twice])
def test_one_warning_says_that_another_mmengine_does_not_check(monkeypatch, load):
    monkeypatch.setitem(CheckpointLoader._schemes, '', load)
    with pytest.warns(UserWarning, match='^pervit_mm cannot make sure that loading a checkpoint runs no code') as seen:
        assert not check_loading()
    assert len(seen) == 1


@needs_list
def test_nothing_is_said_where_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert check_loading()


@needs_list
def test_what_cannot_be_tried_is_not_believed(monkeypatch):
    def nowhere():
        raise FileNotFoundError('no usable temporary directory')

    monkeypatch.setattr(checked_loading.tempfile, 'TemporaryDirectory', nowhere)
    with pytest.warns(UserWarning, match='cannot make sure'):
        assert not check_loading()


def test_the_loaders_keep_the_rest_of_torch():
    assert loaders.torch.Tensor is torch.Tensor and loaders.torch.save is torch.save
