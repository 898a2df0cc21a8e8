"""The small ImageNet recipe of small_run.py, for the tests of what happens to a config."""
import pytest
from small_run import write_world

from pervit_mm.apis.configs import load_config


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A folder with data of three classes and a config."""
    return write_world(tmp_path_factory.mktemp('world'))


@pytest.fixture
def small(world, monkeypatch):
    """The folder's config, loaded in this process."""
    monkeypatch.syspath_prepend(str(world))
    return load_config(str(world / 'small.py'))
