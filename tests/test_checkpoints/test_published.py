"""``pervit_mm://``: what is loaded, what is refused, and that published models still compute the recorded outputs."""
import hashlib
import importlib
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader, load_checkpoint

from pervit_mm.apis.building import build_model
from pervit_mm.checkpoints import published
from pervit_mm.models import PerViT
from pervit_mm.publishing.publish import recorded_outputs
from pervit_mm.utils.errors import UserError

ROOT = Path(__file__).parents[2]
FILES = sorted(path.name for path in (ROOT / 'checkpoints').glob('*.pth'))
ARCH = dict(embed_dims=(8, 16), depths=(1, 1), num_heads=2, stem_channels=(4, ))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The checkpoint folder of a package that has two checkpoints and a log."""
    monkeypatch.setattr(published, 'package_root', lambda: tmp_path)
    (tmp_path / 'model-index.yml').write_text('Import: []')
    folder = tmp_path / 'checkpoints'
    folder.mkdir()
    torch.save(dict(state_dict=dict(weight=torch.arange(3.))), folder / 'a_20260101-00000000.pth')
    torch.save(dict(state_dict=dict(weight=torch.ones(3))), folder / 'b_20260101-00000000.pth')
    (folder / 'a_20260101.log.json').write_text('{"loss": 1.0}\n')
    write_sums(folder)
    return folder


def write_sums(folder):
    (folder / 'SHA256SUMS').write_text(''.join(
        f'{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n' for path in sorted(folder.iterdir())
        if path.name != 'SHA256SUMS'))


def load(name):
    """Load as MMEngine does for init_cfg, load_from and the inferencers."""
    return CheckpointLoader.load_checkpoint(f'pervit_mm://{name}', map_location='cpu')


def test_published_checkpoints_load_by_name(folder):
    content = load('a_20260101-00000000.pth')
    assert torch.equal(content['state_dict']['weight'], torch.tensor([0., 1., 2.]))
    assert list(published.published_files()) == ['a_20260101-00000000.pth', 'b_20260101-00000000.pth']
    loader = CheckpointLoader._get_checkpoint_loader('pervit_mm://x.pth')
    assert loader.__name__[10:] == 'pervit_mm', 'the name of the backend in the log'
    assert CheckpointLoader._get_checkpoint_loader('work_dirs/x.pth').__name__ == 'load_from_local'


@pytest.mark.parametrize('name', ['c.pth', 'a_20260101.log.json', 'SHA256SUMS', '', '/a_20260101-00000000.pth',
                                  '../checkpoints/a_20260101-00000000.pth', 'A_20260101-00000000.pth'])
def test_unknown_names_are_refused(folder, name):
    with pytest.raises(ValueError, match='is none of the checkpoints that come with pervit_mm, which are '
                       'a_20260101-00000000.pth, b_20260101-00000000.pth; for a file of yours give its path'):
        load(name)


def test_a_package_without_sums_says_so(folder):
    (folder / 'SHA256SUMS').unlink()
    with pytest.raises(ValueError, match='SHA256SUMS. is missing, so no checkpoint beside it'):
        load('a_20260101-00000000.pth')


def damaged(content):
    return content[:200] + bytes([content[200] ^ 1]) + content[201:]


@pytest.mark.parametrize('change', [damaged, lambda content: content[:-1], lambda content: b''])
def test_a_changed_file_is_an_error(folder, change):
    path = folder / 'a_20260101-00000000.pth'
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(change(path.read_bytes()))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError) as error:
        load(path.name)
    message = str(error.value)
    assert str(path) in message and expected in message and found in message and 'install pervit_mm again' in message
    shutil.copy(folder / 'b_20260101-00000000.pth', path)  # an undamaged file, but of another checkpoint
    with pytest.raises(ValueError, match='is not what was published and was not loaded'):
        load(path.name)


def test_a_missing_file_is_an_error(folder):
    (folder / 'a_20260101-00000000.pth').unlink()
    with pytest.raises(UserError, match='is missing, though SHA256SUMS lists it'):
        load('a_20260101-00000000.pth')


def test_what_is_checked_is_what_is_loaded(folder, monkeypatch):
    """Even if the file changes between the check and the load."""
    real = hashlib.sha256

    def swap(content):
        shutil.copy(folder / 'b_20260101-00000000.pth', folder / 'a_20260101-00000000.pth')
        return real(content)

    monkeypatch.setattr(published.hashlib, 'sha256', swap)
    assert torch.equal(load('a_20260101-00000000.pth')['state_dict']['weight'], torch.tensor([0., 1., 2.]))


class Crafted:
    """Makes a file when unpickled by plain pickle."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}', )


def test_no_code_is_run_whatever_the_sum(folder):
    torch.save(Crafted(folder / 'marker'), folder / 'a_20260101-00000000.pth')
    write_sums(folder)
    with pytest.raises(pickle.UnpicklingError, match='system'):
        load('a_20260101-00000000.pth')
    assert not (folder / 'marker').exists()


@pytest.mark.parametrize('line', ['12  a.pth', f'{"0" * 64} a.pth', f'{"0" * 64}  ../a.pth', f'{"G" * 64}  a.pth', ' '])
def test_a_malformed_line_of_sums_is_named(folder, line):
    (folder / 'SHA256SUMS').write_text(f'{"1" * 64}  a.pth\n{line}\n')
    with pytest.raises(ValueError, match="SHA256SUMS' line 2 must be 64 hexadecimal digits, two spaces and a file"):
        load('a.pth')


def test_registering_again_changes_nothing():
    before = list(CheckpointLoader._schemes)
    published.register_scheme()
    importlib.reload(published)
    published.register_scheme()
    assert list(CheckpointLoader._schemes) == before and before.count('pervit_mm://') == 1


def test_the_root_is_the_wheel_s_or_the_clone_s(tmp_path, monkeypatch):
    assert published.package_root() == ROOT
    package = tmp_path / 'pervit_mm'
    module = package / 'checkpoints' / 'published.py'
    module.parent.mkdir(parents=True)
    monkeypatch.setattr(published, '__file__', str(module))
    with pytest.raises(UserError, match='install its wheel, or pip install -e a clone'):
        published.package_root()
    (tmp_path / 'model-index.yml').touch()
    assert published.package_root() == tmp_path
    (package / '.mim').mkdir()
    (package / '.mim' / 'model-index.yml').touch()
    assert published.package_root() == package / '.mim'


def test_published_names_work_in_init_cfg_and_load_checkpoint(folder):
    source = PerViT(ARCH, img_size=16)
    source.init_weights()
    state = {f'backbone.{key}': value + 1 for key, value in source.state_dict().items()}
    torch.save(dict(state_dict=state), folder / 'c.pth')
    write_sums(folder)
    rule = dict(type='Pretrained', checkpoint='pervit_mm://c.pth', prefix='backbone.')
    model = PerViT(ARCH, img_size=16, init_cfg=rule)
    model.init_weights()
    assert all(torch.equal(value, state[f'backbone.{key}']) for key, value in model.state_dict().items())
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(torch.zeros(3))
    load_checkpoint(layer, 'pervit_mm://a_20260101-00000000.pth')
    assert layer.weight.tolist() == [0., 1., 2.]


@pytest.mark.skipif(shutil.which('sha256sum') is None, reason='no sha256sum')
def test_the_sums_are_those_of_sha256sum():
    done = subprocess.run(['sha256sum', '--strict', '-c', 'SHA256SUMS'], cwd=ROOT / 'checkpoints', capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    listed = {line.split(': ')[0] for line in done.stdout.splitlines()}
    assert listed == {path.name for path in (ROOT / 'checkpoints').iterdir()} - {'SHA256SUMS'}, 'nothing without a sum'
    assert all(file.rsplit('-', 1)[1] == f'{published.published_files()[file][:8]}.pth' for file in FILES)


def test_there_is_something_published():
    assert FILES and sorted(published.published_files()) == FILES


@pytest.mark.parametrize('file', FILES)
def test_published_checkpoints_load_and_compute_the_same(file):
    """Strictly, into the model that its name says. If this fails, checkpoints of users no longer work as they did.
    Rename keys by ``_version`` and a hook, and keep the computation. Never record the expected outputs anew."""
    name = file.rsplit('_', 1)[0]
    config = next(path for path in (ROOT / 'configs').rglob('*.py') if path.stem == name)
    cfg = Config.fromfile(config)
    pytest.importorskip(cfg.default_scope)
    expected = np.load(ROOT / 'tests' / 'data' / 'published' / f'{name}.npz')[file]
    assert np.abs(expected).max() > 0.1 and np.abs(expected[0] - expected[1]).max() > 0.01, 'two images tell apart'
    content = load(file)
    assert set(content) == {'state_dict', 'meta'} and content['state_dict']._metadata['']['version'] == 1
    model = build_model(cfg, content['state_dict'])
    np.testing.assert_allclose(recorded_outputs(model, cfg), expected, atol=1e-5, rtol=1e-5)
    assert content['meta']['dataset_meta'].keys() <= {'classes', 'palette'}
