"""The check that runs when pervit_mm is imported."""

import configparser
import importlib
import re
import subprocess
import sys
import types
from pathlib import Path

import mmengine.utils
import pytest
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hub import get_config

from pervit_mm.utils import environment
from pervit_mm.utils.environment import (
    check_environment,
    check_module,
    check_pkg_resources,
    find_toolboxes,
    parse_release,
)

ROOT = Path(__file__).resolve().parents[2]


def fake_module(monkeypatch, name, **attributes):
    """Put a module with the given attributes in the place of ``name``."""
    module = types.ModuleType(name)
    for key, value in attributes.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


def break_import(monkeypatch, name, error):
    """Make the import of ``name`` raise ``error``. All other imports work as before."""
    real = importlib.import_module

    def import_module(wanted, *args):
        if wanted == name:
            raise error
        return real(wanted, *args)

    monkeypatch.setattr(environment.importlib, 'import_module', import_module)


@pytest.mark.parametrize(('version', 'release'), [
    ('2.14.1', (2, 14, 1)),
    ('2.14.1+cpu', (2, 14, 1)),
    ('2.0.0rc4', (2,)),
    ('2.0', (2,)),
    ('0.10.0', (0, 10)),
    ('2.10.0.dev20260101+cu130', (2, 10)),
])
def test_parse_release_reads_numbers_without_trailing_zeros(version, release):
    assert parse_release(version) == release


def test_parse_release_compares_numbers_and_not_letters():
    assert parse_release('0.9.1') < parse_release('0.10') <= parse_release('0.10.0')


def test_parse_release_refuses_words():
    with pytest.raises(ValueError, match="version='parrots'"):
        parse_release('parrots')


def test_this_environment_passes():
    check_environment()


@pytest.mark.parametrize('name', ['torch', 'mmengine', 'mmcv'])
def test_missing_module_is_named_with_what_to_install(monkeypatch, name):
    break_import(monkeypatch, name, ModuleNotFoundError(f'No module named {name!r}', name=name))
    with pytest.raises(ImportError, match=f'needs {name} .*not installed: pip install') as caught:
        check_environment()
    assert caught.value.name == name
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('name', 'version', 'minimum'), [
    ('torch', '2.3.1+cu121', '2.4'),
    ('mmengine', '0.9.1', '0.10'),
    ('mmcv', '1.7.2', '2.0'),
])
def test_old_module_is_named_with_its_version(monkeypatch, name, version, minimum):
    fake_module(monkeypatch, name, __version__=version)
    with pytest.raises(ImportError) as caught:
        check_environment()
    message = str(caught.value)
    assert f'needs {name} {minimum} or newer, but {version} is installed: pip install' in message


def test_forks_pass_by_their_import_name(monkeypatch):
    fake_module(monkeypatch, 'mmcv', __version__='2.3.6')
    check_environment()


def test_missing_requirement_of_a_module_is_not_taken_for_the_module(monkeypatch):
    break_import(monkeypatch, 'mmcv', ModuleNotFoundError("No module named 'cv2'", name='cv2'))
    with pytest.raises(ImportError, match="mmcv is installed but .* needs the module 'cv2'"):
        check_environment()


@pytest.mark.parametrize('error', [
    ImportError('libGL.so.1: cannot open shared object file'),
    RuntimeError('operator torchvision::nms does not exist'),
])
def test_broken_module_passes_its_cause_on(monkeypatch, error):
    break_import(monkeypatch, 'mmcv', error)
    with pytest.raises(ImportError, match='mmcv is installed but cannot be imported') as caught:
        check_environment()
    assert str(error) in str(caught.value)
    assert caught.value.__cause__ is error


def test_folder_of_the_same_name_is_not_taken_for_the_module(monkeypatch, tmp_path):
    (tmp_path / 'some_folder').mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match='some_folder.*has no __version__'):
        check_module('some_folder', '1.0', 'pip install some_folder')


def test_missing_pkg_resources_are_named(monkeypatch):
    def needs_it():
        import pkg_resources
        return pkg_resources

    monkeypatch.setattr(mmengine.utils, 'is_installed', needs_it)
    monkeypatch.setattr(environment.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match='pip install "setuptools<81"') as caught:
        check_pkg_resources()
    assert caught.value.name == 'pkg_resources'


def test_pkg_resources_is_not_asked_for_where_mmengine_does_without(monkeypatch):
    monkeypatch.setattr(mmengine.utils, 'is_installed', lambda package: True)
    monkeypatch.setattr(environment.importlib.util, 'find_spec', lambda name: None)
    check_pkg_resources()


def import_in_new_process(code, cwd):
    """Run ``code`` in a process that can import pervit_mm and the modules in ``cwd``."""
    code = f'import sys; sys.path[:0] = [{str(cwd)!r}, {str(ROOT)!r}]; {code}'
    return subprocess.run([sys.executable, '-c', code], cwd=cwd, capture_output=True, text=True)


def test_import_loads_no_toolbox_and_no_compiled_ops(tmp_path):
    result = import_in_new_process(
        'import pervit_mm; '
        'print([m for m in ("mmdet", "mmseg", "mmcv.ops", "mmcv._ext") if m in sys.modules])',
        tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == '[]'


def test_import_fails_with_the_sentence(tmp_path):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').write_text("__version__ = '1.7.2'\n")
    result = import_in_new_process('import pervit_mm', tmp_path)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith('ImportError: pervit_mm needs mmcv 2.0 or newer, but 1.7.2 is installed')


def test_a_toolbox_of_another_distribution_is_found_by_its_import_name(monkeypatch, tmp_path):
    """MMEngine's table says mmsegmentation, and the fork is called onedl-mmsegmentation."""
    for name in ('gone', 'there', 'absent'):
        monkeypatch.setitem(MODULE2PACKAGE, f'toolbox_{name}', f'distribution-{name}')
    for name in ('gone', 'there'):
        configs = tmp_path / f'toolbox_{name}' / '.mim' / 'configs' / '_base_'
        configs.mkdir(parents=True)
        (configs / 'base.py').write_text(f'value = {name!r}\n')
        (tmp_path / f'toolbox_{name}' / '.mim' / 'model-index.yml').write_text('Import: []\n')
        (tmp_path / f'toolbox_{name}' / '__init__.py').touch()
    metadata = tmp_path / 'distribution_there-1.0.dist-info'
    metadata.mkdir()
    (metadata / 'METADATA').write_text('Name: distribution-there\nVersion: 1.0\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'config.py').write_text("_base_ = 'toolbox_gone::_base_/base.py'\n")
    with pytest.raises(ModuleNotFoundError, match='distribution-gone is not installed'):
        Config.fromfile(tmp_path / 'config.py')
    find_toolboxes()
    assert {name: package for name, package in MODULE2PACKAGE.items() if name.startswith('toolbox_')} == dict(
        toolbox_gone='toolbox_gone', toolbox_there='distribution-there', toolbox_absent='distribution-absent')
    assert Config.fromfile(tmp_path / 'config.py').value == 'gone'
    monkeypatch.setattr(mmengine.utils.package_utils, 'call_command', lambda command: pytest.fail(f'runs {command}'))
    assert get_config('toolbox_gone::_base_/base.py').value == 'gone'


def test_no_extra_names_a_part_of_the_stack():
    """pip would put the original over a fork of the same import name without a word."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    named = {re.match(r'[\w-]*', line)[0] for extra in setup['options.extras_require'].values()
             for line in extra.split('\n')}
    assert {'onnx', 'pytest'} <= named
    assert not {name for name in named if re.match('mm|onedl', name)} | (named & {'torch', 'setuptools'})
