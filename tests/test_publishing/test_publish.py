"""Publishing the checkpoint of a training."""
import copy
import hashlib
import json
import re
import runpy
import shutil
import subprocess
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import randomize
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, DefaultScope

from pervit_mm.checkpoints.files import to_bytes
from pervit_mm.publishing import publish as publishing
from pervit_mm.publishing.publish import MAX_BYTES, publish, recorded_outputs, strip_checkpoint

pytest.importorskip('mmpretrain')

TOOL = Path(__file__).parents[2] / 'tools' / 'model_converters' / 'publish_model.py'
NAME = 'pervit_x_fashion-mnist'
CONFIG = '''
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='PerViT', img_size=16, in_channels=1,
                  arch=dict(embed_dims=(8, 16), depths=(1, 1), num_heads=2, stem_channels=(4, ))),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=16))
test_dataloader = dict(dataset=dict(pipeline=[dict(type='Resize', scale=(16, 12)), dict(type='PackInputs')]))
'''
CLASSES = ('cat', 'dog', 'T-shirt/top')


def build():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(Config.fromstring(CONFIG, '.py').model)


def trained(model, path, **more):
    """Save the entries that MMEngine's runner saves, with paths as in a config, and return the file."""
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    model.zero_grad()
    place = str(path.parent)
    content = dict(
        meta=dict(epoch=3, cfg=f"work_dir = '{place}'", dataset_meta=dict(classes=CLASSES, root=place)),
        state_dict=model.state_dict(), optimizer=optimizer.state_dict(), param_schedulers=[dict(last_step=3)],
        message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.], [1]))), **more)
    torch.save(content, path)
    return path


@pytest.fixture
def clone(tmp_path):
    """A clone with a config, and the checkpoint, model and log of a training with that config."""
    root = tmp_path / 'clone'
    (root / 'configs').mkdir(parents=True)
    (root / 'model-index.yml').touch()
    (root / 'configs' / f'{NAME}.py').write_text(CONFIG)
    model = randomize(build()).eval()
    log = tmp_path / 'scalars.json'
    log.write_text('{"loss": 1.5, "step": 1}\n{"accuracy/top1": 61.0, "step": 1}\n'
                   '{"accuracy/top1": 71.25999, "step": 3}\n')
    checkpoint = trained(model, tmp_path / 'epoch_3.pth')
    return SimpleNamespace(root=root, config=root / 'configs' / f'{NAME}.py', folder=root / 'checkpoints',
                           checkpoint=checkpoint, model=model, log=log)


def files_of(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob('*') if path.is_file()}


def test_publish_writes_weights_log_sums_record_and_entry(clone):
    done = publish(clone.config, clone.checkpoint, clone.root, [clone.log], date='20260102')
    content = done.path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    log = f'{NAME}_20260102-{digest[:8]}.log.json'
    assert done.path == clone.folder / f'{NAME}_20260102-{digest[:8]}.pth' and done.sha256 == digest
    assert (done.had_ema, done.removed) == (False, [])
    assert sorted(path.name for path in clone.folder.iterdir()) == ['SHA256SUMS', log, done.path.name]
    assert (clone.folder / log).read_bytes() == clone.log.read_bytes()
    if shutil.which('sha256sum'):
        subprocess.run(['sha256sum', '--strict', '-c', 'SHA256SUMS'], cwd=clone.folder, check=True, capture_output=True)
    published = torch.load(done.path, weights_only=True)
    assert published['meta'] == dict(dataset_meta=dict(classes=CLASSES)) and len(published) == 2
    own = clone.model.state_dict()
    assert published['state_dict'].keys() == own.keys()
    assert all(torch.equal(published['state_dict'][key], own[key]) for key in own)
    assert not any(text in content for text in (str(clone.root.parent).encode(), b'work_dir', b'cfg', b'epoch'))
    assert len(content) < 0.5 * clone.checkpoint.stat().st_size, 'two thirds are the optimizer'
    # One entry as in the metafiles, with the values of this config's model.
    assert yaml.safe_load(done.entry) == [{
        'Name': NAME, 'In Collection': 'PerViT',
        'Metadata': {'Training Data': 'Fashion-MNIST', 'Training Command': f'python tools/train.py configs/{NAME}.py',
                     'Parameters': sum(p.numel() for p in clone.model.parameters()),
                     'FLOPs': publishing.count_flops(clone.model, (1, 12, 16)).flops},
        'Results': [dict(Task='Image Classification', Dataset='Fashion-MNIST', Metrics={'Top 1 Accuracy': 71.26})],
        'Weights': f'pervit_mm://{done.path.name}', 'Training log': f'checkpoints/{log}',
        'Config': f'configs/{NAME}.py'}]
    assert done.entry.startswith(f'  - Name: {NAME}\n    Metadata:\n')
    record = np.load(clone.root / 'tests' / 'data' / 'published' / f'{NAME}.npz')
    steps = np.arange(2 * 12 * 16)
    images = torch.from_numpy((steps * steps * 7919 % 251 / 125 - 1).astype(np.float32).reshape(2, 1, 12, 16))
    with torch.no_grad():
        np.testing.assert_allclose(record[done.path.name], clone.model(images), atol=1e-6)
    assert record.files == [done.path.name]


def test_equal_weights_give_equal_bytes(clone):
    """The memory layout of the tensors, other entries, and shared string objects make no difference."""
    content = torch.load(clone.checkpoint, weights_only=True)
    other = copy.deepcopy(content)
    state = OrderedDict(reversed([(''.join(list(key)), value) for key, value in reversed(other['state_dict'].items())]))
    for key, value in state.items():
        if value.dim() == 2:
            state[key] = torch.nn.Parameter(torch.cat([value.t(), value.t()])[:value.shape[1]].t())
    state._metadata = OrderedDict((''.join(list(key)), dict(value, local=1))
                                  for key, value in content['state_dict']._metadata.items())
    other = dict(meta=dict(dataset_meta=dict(classes=tuple(''.join(list(name)) for name in CLASSES))), state_dict=state)
    assert to_bytes(strip_checkpoint(other)) == to_bytes(strip_checkpoint(content))
    state['head.fc.bias'] = state['head.fc.bias'] + 1
    assert to_bytes(strip_checkpoint(other)) != to_bytes(strip_checkpoint(content))


def test_a_later_version_learns_which_one_wrote_the_file(clone):
    """It needs ``_version`` to rename keys. Publishing keeps it."""
    content = torch.load(publish(clone.config, clone.checkpoint, clone.root).path, weights_only=True)
    seen = []

    class Later(torch.nn.LayerNorm):
        _version = 2

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
            seen.append((prefix, local_metadata['version']))
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    model = build()
    model.backbone.norm1 = Later(16)
    model.load_state_dict(content['state_dict'])
    assert seen == [('backbone.norm1.', 1)]


def test_averaged_weights_are_published(clone):
    """MMEngine's EMAHook swaps the averages in when it saves."""
    model = copy.deepcopy(clone.model)
    hook, runner = EMAHook(momentum=0.5), SimpleNamespace(model=model, epoch=0, iter=0)
    hook.before_run(runner)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.)
    for runner.iter in range(2):  # the first iteration copies, the second averages
        hook.after_train_iter(runner, 0)
        if runner.iter == 0:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(2.)
    content = dict(state_dict=model.state_dict(), meta={})
    hook.before_save_checkpoint(runner, content)
    torch.save(content, clone.checkpoint)
    done = publish(clone.config, clone.checkpoint, clone.root)
    assert done.had_ema and done.path.stat().st_size < 0.6 * clone.checkpoint.stat().st_size
    published = torch.load(done.path, weights_only=True)
    # The average is first 1 above the start, and then the mean of 1 and 3 above the start.
    torch.testing.assert_close(published['state_dict']['head.fc.bias'], clone.model.head.fc.bias.detach() + 2.)
    assert published['meta'] == {}


def test_published_files_stay_unless_replaced(clone):
    first = publish(clone.config, clone.checkpoint, clone.root, [clone.log], date='20260102')
    before = files_of(clone.root)
    again = publish(clone.config, clone.checkpoint, clone.root, [clone.log], date='20260102')
    assert again.path == first.path and files_of(clone.root) == before
    clone.log.write_text('{"loss": 1.0}\n')
    with pytest.raises(ValueError, match=f"{first.path.stem}.log.json' is published already, with other content"):
        publish(clone.config, clone.checkpoint, clone.root, [clone.log], date='20260102')
    assert files_of(clone.root) == before
    trained(clone.model, clone.checkpoint)  # the training went one step further, on the same day
    second = publish(clone.config, clone.checkpoint, clone.root, [clone.log], date='20260102')
    assert {path.name for path in clone.folder.iterdir()} == {'SHA256SUMS'} | {
        f'{path.stem}.{end}' for path in (first.path, second.path) for end in ('pth', 'log.json')}
    record = clone.root / 'tests' / 'data' / 'published' / f'{NAME}.npz'
    assert np.load(record).files == [second.path.name, first.path.name]
    (clone.folder / 'SHA256SUMS').write_text(
        (clone.folder / 'SHA256SUMS').read_text() + f'{"0" * 64}  {NAME}-b_20260102-00000000.pth\n')  # another model's
    trained(clone.model, clone.checkpoint)
    third = publish(clone.config, clone.checkpoint, clone.root, [clone.log], date='20260103', replace=True)
    assert set(third.removed) == {
        f'{path.stem}.{end}' for path in (first.path, second.path) for end in ('pth', 'log.json')}
    log = f'{third.path.stem}.log.json'
    assert {path.name for path in clone.folder.iterdir()} == {'SHA256SUMS', third.path.name, log}
    assert [line.split()[1] for line in (clone.folder / 'SHA256SUMS').read_text().splitlines()] == sorted([
        f'{NAME}-b_20260102-00000000.pth', third.path.name, log])
    assert np.load(record).files == [third.path.name]


def test_recorded_outputs_are_never_overwritten(clone, monkeypatch):
    """If a later version computes other outputs, publishing again does not overwrite the recorded ones."""
    done = publish(clone.config, clone.checkpoint, clone.root, date='20260102')
    before = files_of(clone.root)
    monkeypatch.setattr(publishing, 'recorded_outputs', lambda *args: np.zeros((2, 3)))
    publish(clone.config, clone.checkpoint, clone.root, date='20260102')
    assert files_of(clone.root) == before and done.path.name


@pytest.mark.parametrize('content, message', [
    ([1], 'this one holds list'),
    ({}, 'this one holds nothing'),
    (dict(model=1, epoch=2), 'this one holds model, epoch'),
    (dict(state_dict={}), 'this one holds state_dict'),
    (dict(state_dict=dict(a=1)), 'this one holds state_dict'),
    (dict(state_dict={1: torch.ones(1)}), 'this one holds state_dict'),
    (dict(state_dict=dict(a=torch.eye(2).to_sparse())), "'a' is sparse, quantized or nested"),
    (dict(state_dict=dict(a=torch.ones(2, device='meta'))), "'a' has a shape and no values"),
    (dict(state_dict=dict(a=torch.ones(2), b=torch.tensor([1., float('nan')]))), "'b' holds NaN or infinity"),
    (dict(state_dict=dict(a=torch.ones(2, dtype=torch.bool))), "'a' is torch.bool"),
    (dict(state_dict=dict(a=torch.ones(1).expand(10**6))), r"'a' has 1,000,000 values in 4 bytes \(stride 0\)"),
    (dict(state_dict=dict(a=torch.ones(1)), meta=dict(dataset_meta=dict(classes=dict(a=1)))),
     'meta.dataset_meta.classes must hold text and whole numbers, got dict'),
    (dict(state_dict=dict(a=torch.ones(1)), meta=[1]), r"checkpoint\['meta'\] must be a dict, .* got list"),
])
def test_checkpoints_of_another_kind_are_refused(content, message):
    with pytest.raises(ValueError, match=message):
        strip_checkpoint(content)


def test_refusals_write_nothing(clone, tmp_path):
    before = files_of(clone.root)
    other = tmp_path / 'other.py'
    shutil.copy(clone.config, other)
    for arguments, message in (
        (dict(config=other), 'config must be in a clone of the repository'),
        (dict(date='2026-01-02'), "date must be YYYYMMDD, got '2026-01-02'"),
        (dict(max_bytes=1000), r'is [\d,]+ bytes when stripped, and 1,000 is the limit .* --force-size publishes it'),
        (dict(checkpoint=clone.log), "scalars.json' cannot be read as a PyTorch checkpoint"),
        (dict(logs=[clone.checkpoint.parent / 'other.py']), 'must be a vis_data/scalars.json'),
    ):
        arguments = {**dict(config=clone.config, checkpoint=clone.checkpoint, root=clone.root), **arguments}
        with pytest.raises(ValueError, match=message):
            publish(**arguments)
    clone.config.write_text(CONFIG.replace('num_classes=3', 'num_classes=4'))
    with pytest.raises(ValueError, match=r'checkpoint is not of this config: head.fc.weight is \(3, 16\) there'):
        publish(clone.config, clone.checkpoint, clone.root)
    clone.config.write_text(CONFIG.replace("dict(type='PerViT', ", "dict(type='PerViT', position_cfg=None, "))
    with pytest.raises(ValueError, match='checkpoint is not of this config: .* is not in the config'):
        publish(clone.config, clone.checkpoint, clone.root)
    clone.config.write_text(CONFIG.replace("type='PerViT'", "type='PerViTX'"))
    with pytest.raises(ValueError, match='cannot be built: PerViTX'):
        publish(clone.config, clone.checkpoint, clone.root)
    clone.config.write_text(CONFIG)
    (clone.root / 'model-index.yml').unlink()
    with pytest.raises(ValueError, match='config must be in a clone'):
        publish(clone.config, clone.checkpoint, clone.root)
    (clone.root / 'model-index.yml').touch()
    assert files_of(clone.root) == before
    assert publish(clone.config, clone.checkpoint, clone.root, max_bytes=None).path.is_file()


def test_the_size_limit_is_that_of_setup_py():
    text = (TOOL.parents[2] / 'setup.py').read_text()
    assert [int(number) for number in re.findall(r'^MAX_BYTES = ([\d_]+)$', text, re.M)] == [MAX_BYTES]


def test_the_tool_publishes_and_prints_the_entry(clone, capsys):
    main = runpy.run_path(str(TOOL))['main']
    main.__globals__['package_root'] = lambda: clone.root
    main([str(clone.config), str(clone.checkpoint), '--log', str(clone.log), '--date', '20260102'])
    first = capsys.readouterr().out
    path = next(clone.folder.glob('*.pth'))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert first.startswith(f'{path}: {path.stat().st_size:,} bytes, sha256 {digest}\nFor the metafile, ')
    assert yaml.safe_load(first.split('measured:\n')[1])[0]['Weights'] == f'pervit_mm://{path.name}'
    trained(clone.model, clone.checkpoint, ema_state_dict={})
    main([str(clone.config), str(clone.checkpoint), '--date', '20260103', '--replace'])
    out = capsys.readouterr().out
    assert ', weights averaged by EMAHook\n' in out and f'\nRemoved: {path.stem}.log.json, {path.name}\n' in out
    with pytest.raises(SystemExit, match="^tools/model_converters/publish_model.py: path: 'absent.pth' is not a file"):
        main([str(clone.config), 'absent.pth'])
    assert json.loads(clone.log.read_text().splitlines()[0]) == dict(loss=1.5, step=1)


def test_records_of_segmentors_and_detectors_tell_moved_maps_apart():
    """Mean, corners and center of the map of logits, or of each level of features. Moved or turned maps differ."""
    cfg = Config(dict(default_scope='mmdet', model=dict(backbone=dict())))

    class Detector(torch.nn.Module):

        def extract_feat(self, images):
            return images[:, :2, ::2], images + 1

        forward = None

    def values(maps):
        """The six values of each channel, ``(2, 6 * C)``."""
        mean, (height, width) = maps.mean((2, 3)), maps.shape[2:]
        top, bottom, center = maps[:, :, 0], maps[:, :, height - 1], maps[:, :, height // 2, width // 2]
        return np.concatenate([mean, top[..., 0], top[..., -1], bottom[..., 0], bottom[..., -1], center], 1)

    steps = np.arange(2 * 3 * 192 * 256)
    images = (steps * steps * 7919 % 251 / 125 - 1).reshape(2, 3, 192, 256)
    found = recorded_outputs(Detector(), cfg)
    assert found.shape == (2, 30)
    np.testing.assert_allclose(found, np.concatenate([values(images[:, :2, ::2]), values(images + 1)], 1), atol=1e-5)
    cfg.default_scope = 'mmseg'
    found = recorded_outputs(torch.nn.Identity(), cfg)
    np.testing.assert_allclose(found, values(images), atol=1e-5)
    tokens = recorded_outputs(lambda x: x.flatten(2).transpose(1, 2), cfg)  # of a pre-training
    flat = images.reshape(2, 3, -1)
    np.testing.assert_allclose(
        tokens, np.concatenate([flat.mean(2), *(flat[..., i] for i in (0, -1, flat.shape[2] // 2))], 1), atol=1e-5)
    for moved in (torch.adjoint, lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.roll(1, 2)):
        assert np.abs(recorded_outputs(moved, cfg) - found).max() > 0.1
