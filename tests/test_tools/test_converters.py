"""tools/model_converters: a converted file of the authors' code gives equal outputs, and converts back."""
import argparse
import hashlib
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import official_state
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from pervit_mm.checkpoints import published
from pervit_mm.models import PerViT

pytest.importorskip('mmpretrain')

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools' / 'model_converters'


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    """A file as the authors' code saves it, and the state dict in it."""
    state = official_state('tiny')
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2)).sum().backward()
    optimizer.step()
    path = tmp_path_factory.mktemp('official') / 'checkpoint.pth'
    torch.save(dict(model=state, optimizer=optimizer.state_dict(), lr_scheduler=dict(base_values=[1e-3]), epoch=299,
                    model_ema=None, args=argparse.Namespace(model='pervit_tiny', lr=5e-4)), path)
    return path, state


def run(tool, *args):
    """The tool's main in this process."""
    runpy.run_path(str(TOOLS / tool))['main']([str(arg) for arg in args])


def classifier(**options):
    cfg = Config.fromfile(ROOT / 'configs' / 'pervit_tiny.py')
    cfg.merge_from_dict(options)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(cfg.model).eval()


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_converted_weights_give_the_golden_logits_and_convert_back(tmp_path, official, golden, capsys):
    source, state = official
    target, back = tmp_path / 'pervit_tiny.pth', tmp_path / 'back.pth'
    run('pervit_to_mm.py', source, target)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()[:8]
    assert capsys.readouterr().out == (
        f'{target}: PerViT tiny, 7,591,000 parameters, 1000 classes, sha256 begins {digest}\n'
        f'With its config: python tools/test.py configs/pervit_tiny.py {target}\n')
    content = torch.load(target, weights_only=True)
    assert content.keys() == {'state_dict', 'meta'}
    assert {key: content['meta'][key] for key in ('size', 'num_classes', 'dropped')} == dict(
        size='tiny', num_classes=1000, dropped=[])
    model = classifier()
    model.load_state_dict(content['state_dict'], strict=True)
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32))
    with torch.no_grad():
        np.testing.assert_allclose(model(images, mode='tensor'), golden['logits'], atol=1e-4, rtol=0)
    # A training saves more entries than the weights.
    torch.save({**content, 'optimizer': {}, 'message_hub': {}}, target)
    run('mm_to_pervit.py', target, back)
    assert capsys.readouterr().out.startswith(
        f"{back}: PerViT tiny in the authors' layout, 7,591,000 parameters, 1000 classes, sha256 ")
    reverted = torch.load(back, weights_only=True)
    assert reverted.keys() == {'model'} and equal(reverted['model'], state)


def test_a_head_of_other_classes_is_kept_or_dropped(tmp_path, official, capsys):
    _, state = official
    state = {**state, 'head.weight': torch.randn(10, 280), 'head.bias': torch.randn(10)}
    torch.save(state, tmp_path / 'ten.pth')  # and without 'model' around it
    run('pervit_to_mm.py', tmp_path / 'ten.pth', tmp_path / 'out.pth')
    out = capsys.readouterr().out
    assert ', 7,312,810 parameters, 10 classes, ' in out
    options = dict(word.split('=') for word in out.split('--cfg-options ')[1].split())
    assert options == {'model.head.num_classes': '10', 'data_preprocessor.num_classes': '10'}
    model = classifier(**{key: int(value) for key, value in options.items()})
    model.load_state_dict(torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict'], strict=True)
    assert torch.equal(model.head.fc.weight, state['head.weight'])
    run('pervit_to_mm.py', tmp_path / 'ten.pth', tmp_path / 'out.pth', '--backbone-only', '--force')
    assert ', no head, ' in capsys.readouterr().out
    content = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert content['meta']['dropped'] == ['head.fc.weight', 'head.fc.bias']
    missing, unexpected = classifier().load_state_dict(content['state_dict'], strict=False)
    assert (missing, unexpected) == (['head.fc.weight', 'head.fc.bias'], [])


def test_backbone_only_serves_dense_tasks(tmp_path, official, capsys):
    """With the rule that the tool prints. The same rule takes the backbone from a full file."""
    source, state = official
    run('pervit_to_mm.py', source, tmp_path / 'backbone.pth', '--backbone-only')
    run('pervit_to_mm.py', source, tmp_path / 'full.pth')
    rule = re.search(r'init_cfg=dict\((.*?)\)', capsys.readouterr().out)[1]
    rule = dict(re.findall(r"(\w+)='(.*?)'", rule))
    assert rule == dict(type='Pretrained', checkpoint=str(tmp_path / 'backbone.pth'), prefix='backbone.')
    content = torch.load(tmp_path / 'backbone.pth', weights_only=True)
    assert all(key.startswith('backbone.') for key in content['state_dict'])
    images, features = torch.randn(1, 3, 96, 64), []
    for checkpoint in ('backbone.pth', 'full.pth'):
        model = PerViT('tiny', out_type='featmap', init_cfg={**rule, 'checkpoint': str(tmp_path / checkpoint)})
        model.init_weights()
        with torch.no_grad():
            features += model.eval()(images)
    direct = PerViT('tiny', out_type='featmap').eval()
    direct.load_state_dict({key.removeprefix('backbone.'): value for key, value in content['state_dict'].items()})
    with torch.no_grad():
        features += direct(images)
    assert features[0].shape == (1, 280, 6, 4) and torch.equal(direct.norm11.bias, state['norm.bias'])
    assert torch.equal(features[0], features[1]) and torch.equal(features[0], features[2])


class Crafted:
    """Makes a file when unpickled by plain pickle."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}', )


@pytest.mark.parametrize('tool, content, message', [
    ('pervit_to_mm.py', dict(state_dict={'backbone.a': torch.ones(1)}), "'src.pth' has OpenMMLab's layout already"),
    ('pervit_to_mm.py', dict(lr=1), "'src.pth' is not a checkpoint of the authors' code, .* it holds a dict with lr"),
    ('pervit_to_mm.py', dict(model={'layer1.0.conv1.weight': torch.ones(1), 'fc.bias': torch.ones(1)}),
     r'state_dict is not PerViT tiny .*blocks.0.norm1.weight is missing.*its 2 keys begin with layer1 \(1\), fc \(1\)'),
    ('pervit_to_mm.py', dict(model={1: torch.ones(1)}), 'state_dict must map names to dense tensors, got 1: Tensor'),
    ('pervit_to_mm.py', Crafted, r"'src.pth' was refused and nothing of it was executed: it asks for \w+.system"),
    ('mm_to_pervit.py', dict(model={'a': torch.ones(1)}),
     "'src.pth' is not a checkpoint of a model with a backbone, .*it holds a dict with model"),
    ('mm_to_pervit.py', dict(state_dict={'backbone.a': torch.ones(1)}), 'state_dict is not PerViT tiny '),
    ('mm_to_pervit.py', Crafted, "'src.pth' was refused and nothing of it was executed"),
])
def test_wrong_files_leave_one_clear_line(tmp_path, monkeypatch, capsys, tool, content, message):
    monkeypatch.chdir(tmp_path)
    torch.save(Crafted(tmp_path / 'marker') if content is Crafted else content, 'src.pth')
    with pytest.raises(SystemExit) as stop:
        run(tool, 'src.pth', 'dst.pth')
    assert isinstance(stop.value.code, str), 'which Python prints, with exit code 1'
    assert re.match(f'tools/model_converters/{tool}: {message}', stop.value.code) and '\n' not in stop.value.code
    assert os.listdir(tmp_path) == ['src.pth'] and capsys.readouterr().out == ''


def test_published_files_convert_by_name(tmp_path, official, monkeypatch, capsys):
    """They are found beside the package, and their sha256 is compared. The real ones have a size without converter."""
    source, state = official
    run('pervit_to_mm.py', source, tmp_path / 'a.pth')
    with monkeypatch.context() as patch:
        patch.setattr(published, 'package_root', lambda: tmp_path)
        (tmp_path / 'checkpoints').mkdir()
        (tmp_path / 'a.pth').rename(tmp_path / 'checkpoints' / 'a.pth')
        digest = hashlib.sha256((tmp_path / 'checkpoints' / 'a.pth').read_bytes()).hexdigest()
        (tmp_path / 'checkpoints' / 'SHA256SUMS').write_text(f'{digest}  a.pth\n')
        run('mm_to_pervit.py', 'pervit_mm://a.pth', tmp_path / 'back.pth')
    assert equal(torch.load(tmp_path / 'back.pth', weights_only=True)['model'], state)
    name = next(iter(published.published_files()))
    with pytest.raises(SystemExit, match='state_dict is not PerViT tiny'):
        run('mm_to_pervit.py', f'pervit_mm://{name}', tmp_path / 'other.pth')


def test_existing_files_stay_unless_forced(tmp_path, official):
    """Unless --force is given. One tool runs as a script from another folder, with its exit code."""
    source, state = official
    there = tmp_path / 'there.pth'
    there.write_text('precious')
    done = subprocess.run([sys.executable, str(TOOLS / 'pervit_to_mm.py'), str(source), 'there.pth'], cwd=tmp_path,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout, done.stderr) == (
        1, '', "tools/model_converters/pervit_to_mm.py: 'there.pth' exists already; give another path, or --force to "
        'replace it\n')
    with pytest.raises(SystemExit, match=f"mm_to_pervit.py: '{there}' exists already; give another path, or --force"):
        run('mm_to_pervit.py', source, there)
    assert there.read_text() == 'precious' and os.listdir(tmp_path) == ['there.pth']
    run('pervit_to_mm.py', source, there, '--force')
    run('mm_to_pervit.py', there, there, '--force')
    assert equal(torch.load(there, weights_only=True)['model'], state)
