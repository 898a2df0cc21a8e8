"""tools/train.py from end to end: real processes on a small folder of real JPEG files."""
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pervit_mm.datasets.image_folder import make_image_folder
from pervit_mm.engine import launch

pytest.importorskip('mmpretrain')

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / 'tools' / 'train.py'

# What the runs record, as a hook of the config's own: the raw loss of each iteration (the log has
# running means) and each rank's parameters. KILL_AT stops a run dead ahead of an iteration.
RECORDER = '''
import json
import os
import signal

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Recorder(Hook):

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == int(os.environ.get('KILL_AT', -1)):
            os.kill(os.getpid(), signal.SIGKILL)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with open(f'{runner.work_dir}/losses_{get_rank()}.jsonl', 'a') as file:
            file.write(json.dumps([runner.iter, float(outputs['loss'])]) + '\\n')

    def after_train(self, runner):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        torch.save(dict(model.named_parameters()), f'{runner.work_dir}/parameters_{get_rank()}.pth')
'''

# The recipe as it is, on a smaller network and a smaller folder.
SMALL = '''
_base_ = {base!r}
custom_imports = dict(imports=['pervit_mm', 'recorder'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=(8, 12), depths=(1, 1), num_heads=2,
            stem_channels=(4, 4, 4)),
        drop_path_rate=0.5),
    head=dict(in_channels=12))
data = dict(data_root={data!r}, classes={data!r} + '/classes.txt')
train_dataloader = dict(batch_size=4, num_workers=1, dataset=data)
val_dataloader = dict(batch_size=4, num_workers=1, dataset=data)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2)
custom_hooks = [dict(type='PerViTRandomStateHook'), dict(type='Recorder')]
'''

# No random step and no BatchNorm: what two processes do with half the images each is then what one
# does with all of them. (BatchNorm takes its statistics from each process's own images.)
IN_STEP = '''
_base_ = {base!r}
model = dict(
    backbone=dict(stem_cfg=dict(type='patchify'), drop_path_rate=0.),
    train_cfg=None)
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=_base_.test_pipeline))
param_scheduler = []
'''


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A folder with data, configs and the recorder."""
    root = tmp_path_factory.mktemp('world')
    make_image_folder(str(root / 'data'), num_classes=3, train_images=8, val_images=4)
    (root / 'recorder.py').write_text(RECORDER)
    (root / 'small.py').write_text(
        SMALL.format(base=str(ROOT / 'configs' / 'pervit_tiny.py'), data=str(root / 'data')))
    (root / 'in_step.py').write_text(IN_STEP.format(base=str(root / 'small.py')))
    return root


def start(world, *args, launcher=(), **env):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': f'{ROOT}{os.pathsep}{world}', **env}
    return subprocess.Popen([sys.executable, *launcher, str(TRAIN), *map(str, args)], env=env,
                            cwd=world, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process, code=0):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == code, out[-4000:]
    return out


def losses(folder, rank=0):
    lines = (folder / f'losses_{rank}.jsonl').read_text().splitlines()
    return [tuple(json.loads(line)) for line in lines]


def test_train_kill_resume(world):
    """An undisturbed run and a killed one, side by side; the second goes on where it should."""
    options = ('--work-dir', world / 'killed', '--amp', '--cfg-options', 'default_hooks.logger.interval=1')
    killed = start(world, 'small.py', *options, KILL_AT='9')
    whole = finish(start(world, 'small.py', '--amp', '--cfg-options', 'default_hooks.logger.interval=1'))
    finish(killed, -signal.SIGKILL)

    # 24 images by batches of 4: epochs of 6 iterations, and number 9 is within the second.
    assert [i for i, _ in losses(world / 'killed')] == list(range(9))
    assert (world / 'killed' / 'last_checkpoint').read_text().endswith('epoch_1.pth')

    work_dir = world / 'work_dirs' / 'small'  # the config's stem
    assert [i for i, _ in losses(work_dir)] == list(range(12))
    assert whole.count('AmpOptimWrapper needs one') == 1, 'said, and said once'
    assert re.search(r'^top-1 accuracy in percent: [\d.]+$', whole, re.M), whole[-500:]
    assert re.search(r'^checkpoint: .*epoch_2\.pth$', whole, re.M), whole[-500:]
    assert 'eta: ' in whole

    resumed = finish(start(world, 'small.py', '--resume', *options))
    assert 'epoch_1.pth' in resumed
    after = losses(world / 'killed')[9:]
    assert [i for i, _ in after] == list(range(6, 12))
    for (_, there), (i, here) in zip(losses(work_dir)[6:], after):
        assert here == pytest.approx(there, rel=1e-5), f'iteration {i}'
    ours, theirs = (torch.load(folder / 'parameters_0.pth') for folder in
                    (world / 'killed', work_dir))
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, msg=key)


def test_two_processes_train_in_step(world):
    """torchrun over gloo against one process on the joint batch."""
    torchrun = ('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2')
    double = start(world, 'in_step.py', '--work-dir', world / 'double', '--launcher', 'pytorch',
                   launcher=torchrun)
    single = start(world, 'in_step.py', '--work-dir', world / 'single', '--no-validate',
                   '--cfg-options', 'train_dataloader.batch_size=8')
    out = finish(double)
    assert 'talk through gloo' in out
    assert out.count('top-1 accuracy') == 1, 'one process speaks for both'
    finish(single)

    first, second, one = (torch.load(path) for path in (
        world / 'double' / 'parameters_0.pth', world / 'double' / 'parameters_1.pth',
        world / 'single' / 'parameters_0.pth'))
    for key, value in first.items():
        assert torch.equal(second[key], value), key
    halves = zip(losses(world / 'double', 0), losses(world / 'double', 1))
    joint = losses(world / 'single')
    assert len(joint) == 6
    for ((i, left), (_, right)), (_, together) in zip(halves, joint):
        assert (left + right) / 2 == pytest.approx(together, rel=1e-5), f'iteration {i}'
    for key, value in first.items():
        torch.testing.assert_close(one[key], value, rtol=1e-3, atol=1e-5, msg=key)


@pytest.fixture
def small(world, monkeypatch):
    """The config of the folder, in this process."""
    monkeypatch.syspath_prepend(str(world))
    return launch.load_config(str(world / 'small.py'))


def prepare(cfg, **options):
    return launch.prepare_config(cfg, 'configs/small.py', **options)


def test_options(small, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, 'has_accelerator', lambda: True)
    checkpoint = tmp_path / 'a.pth'
    checkpoint.touch()
    assert prepare(small, seed=7, resume=str(checkpoint), validate=False, auto_scale_lr=True,
                   work_dir=str(tmp_path)) == []
    assert small.randomness.seed == 7 and small.randomness.diff_rank_seed is True
    assert small.resume is True and small.load_from == str(checkpoint)
    assert small.val_cfg is small.val_dataloader is small.val_evaluator is None
    assert small.auto_scale_lr == dict(base_batch_size=1024, enable=True)
    assert small.work_dir == str(tmp_path)
    assert small.optim_wrapper.type == 'AmpOptimWrapper', 'where there is a GPU it stays'
    assert small.get('model_wrapper_cfg') is None


def test_resume_with_nothing_to_resume_starts_from_load_from(small, tmp_path, monkeypatch):
    """MMEngine would drop load_from and train from random weights."""
    monkeypatch.setattr(launch, 'has_accelerator', lambda: True)
    small.load_from = str(tmp_path / 'pretrained.pth')
    (tmp_path / 'pretrained.pth').touch()
    notes = prepare(small, resume='auto', work_dir=str(tmp_path / 'run'))
    assert small.resume is False and small.load_from == str(tmp_path / 'pretrained.pth')
    assert len(notes) == 1 and 'no checkpoint in' in notes[0] and 'pretrained.pth' in notes[0]
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'last_checkpoint').write_text(str(tmp_path / 'run' / 'epoch_1.pth'))
    (tmp_path / 'run' / 'epoch_1.pth').touch()
    assert prepare(small, resume='auto', work_dir=str(tmp_path / 'run')) == []
    assert small.resume is True and small.load_from is None


def test_amp_on_a_gpu(small, monkeypatch):
    monkeypatch.setattr(launch, 'has_accelerator', lambda: True)
    small.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.))
    prepare(small, amp=True)
    assert small.optim_wrapper.type == 'AmpOptimWrapper'
    assert small.optim_wrapper.loss_scale == 'dynamic'
    small.optim_wrapper.type = 'DeepSpeedOptimWrapper'
    with pytest.raises(launch.LaunchError, match='DeepSpeedOptimWrapper'):
        prepare(small, amp=True)


def test_without_a_gpu(small, monkeypatch):
    monkeypatch.setattr(launch, 'has_accelerator', lambda: False)
    notes = prepare(small, launcher='pytorch')
    assert len(notes) == 2
    assert small.optim_wrapper.type == 'OptimWrapper'
    assert not {'loss_scale', 'dtype'} & set(small.optim_wrapper)
    assert small.model_wrapper_cfg.device_ids is None
    assert small.train_dataloader.pin_memory is False
    for key in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(launch.LaunchError, match='RANK.*torchrun'):
        launch.build_runner(small)
    small.launcher = 'slurm'
    with pytest.raises(launch.LaunchError, match='slurm needs a GPU'):
        launch.build_runner(small)


@pytest.mark.parametrize('launcher, kinds', [('pytorch', ['BN', 'BN', 'LN']), ('none', ['SyncBN', 'SyncBN', 'LN'])])
def test_sync_bn_without_a_gpu(small, monkeypatch, launcher, kinds):
    """torch's takes no CPU tensors; in a single process MMEngine turns it into BN by itself."""
    monkeypatch.setattr(launch, 'has_accelerator', lambda: False)
    parts = [dict(norm_cfg=dict(type='SyncBN', requires_grad=True)), dict(norm_cfg=dict(type='LN'))]
    small.model = dict(type='A', backbone=dict(norm_cfg=dict(type='SyncBN')), heads=parts)
    notes = prepare(small, launcher=launcher)
    assert [part.norm_cfg.type for part in (small.model.backbone, *small.model.heads)] == kinds
    assert any('SyncBN' in note for note in notes) is (launcher == 'pytorch')
    assert small.model.heads[0].norm_cfg.requires_grad is True


def test_sync_bn_without_a_gpu_in_testing(small, monkeypatch, tmp_path):
    monkeypatch.setattr(launch, 'has_accelerator', lambda: False)
    small.model = dict(type='A', backbone=dict(norm_cfg=dict(type='SyncBN')))
    (tmp_path / 'a.pth').touch()
    notes = launch.prepare_test_config(small, 'configs/small.py', str(tmp_path / 'a.pth'), launcher='pytorch')
    assert small.model.backbone.norm_cfg.type == 'BN'
    assert not any('SyncBN' in note for note in notes), 'statistics are those of training'


def test_wrong_paths_are_one_sentence(small, world, tmp_path):
    with pytest.raises(launch.LaunchError, match='nowhere.py.*is not a file'):
        launch.load_config('nowhere.py')
    broken = tmp_path / 'broken.py'
    broken.write_text("_base_ = 'nowhere.py'\n")
    with pytest.raises(launch.LaunchError, match='broken.py.*cannot be read'):
        launch.load_config(str(broken))
    launch.load_config(str(world / 'small.py'), {'efficient_conv_bn_eval': True, 'test_cfg': {}})
    with pytest.raises(launch.LaunchError, match="has no 'train_confg'"):
        launch.load_config(str(world / 'small.py'), {'train_confg.max_epochs': 1})
    with pytest.raises(launch.LaunchError, match='--resume.*nowhere.pth'):
        prepare(small, resume='nowhere.pth')
    small.load_from = None
    small.model.backbone.init_cfg = [dict(type='Pretrained', checkpoint='nowhere.pth')]
    with pytest.raises(launch.LaunchError, match='model.backbone.init_cfg.0.checkpoint.*nowhere'):
        prepare(small)
    del small.model.backbone['init_cfg']
    small.val_dataloader.dataset.data_root = 'nowhere'
    with pytest.raises(launch.LaunchError, match='val_dataloader.dataset .*nowhere/val'):
        prepare(small)
    prepare(small, validate=False)
    (tmp_path / 'file').touch()
    with pytest.raises(launch.LaunchError, match='--work-dir'):
        prepare(small, work_dir=str(tmp_path / 'file'))
    small.work_dir = str(tmp_path)
    small.pop('auto_scale_lr')
    with pytest.raises(launch.LaunchError, match='--auto-scale-lr'):
        prepare(small, auto_scale_lr=True)
    small.train_cfg = None
    with pytest.raises(launch.LaunchError, match='no train_cfg'):
        prepare(small)
    with pytest.raises(launch.LaunchError, match='checkpoint.*nowhere.pth'):
        launch.prepare_test_config(small, 'configs/small.py', 'nowhere.pth')


def test_names_of_published_checkpoints_are_looked_up(small, monkeypatch):
    """Wherever a checkpoint is named; the message lists those that are there."""
    monkeypatch.setattr(launch, 'has_accelerator', lambda: True)
    names = [f'pervit_mm://{path.name}' for path in sorted((ROOT / 'checkpoints').glob('*.pth'))]
    wrong = 'pervit_mm://nope.pth'
    beginning, there = f"'{wrong}' is none of the checkpoints", re.escape(f'which are {", ".join(names)}; for a file')
    for name in names:
        launch.prepare_test_config(small, 'configs/small.py', name)
    with pytest.raises(launch.LaunchError, match=f'^checkpoint: {beginning} .*{there}'):
        launch.prepare_test_config(small, 'configs/small.py', wrong)
    small.load_from, small.resume = wrong, False
    with pytest.raises(launch.LaunchError, match=f'^load_from: {beginning}'):
        prepare(small)
    small.load_from = names[0]
    small.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=wrong)
    with pytest.raises(launch.LaunchError, match=f'^model.backbone.init_cfg.checkpoint: {beginning}'):
        prepare(small)
    with pytest.raises(launch.LaunchError, match=f'^--resume: {beginning}'):
        prepare(small, resume=wrong)


@pytest.mark.parametrize('dataset, fails', [
    (dict(type='FashionMNIST', data_root='nowhere'), False),
    (dict(type='FashionMNIST', data_root='nowhere', download=False), True),
    (dict(type='CocoDataset', data_root='s3://bucket', ann_file='a.json'), False),
    (dict(type='CocoDataset', data_root='nowhere', backend_args=dict(backend='petrel')), False),
    (dict(type='VOC', data_root='.', split='trainval'), False),
    (dict(type='ImageNet', data_root='nowhere', split='val'), True),
    (dict(type='RepeatDataset', times=2, dataset=dict(type='A', data_root='nowhere')), True),
    (dict(type='CocoDataset', ann_file='nowhere.json', data_prefix=dict(img='')), True),
    (dict(type='Made', size=3), False),
])
def test_check_data(dataset, fails):
    cfg = dict(train_dataloader=dict(dataset=dataset))
    if fails:
        with pytest.raises(launch.LaunchError, match='nowhere'):
            launch.check_data(cfg, 'train_dataloader')
    else:
        launch.check_data(cfg, 'train_dataloader')


def test_image_folder_is_seeded(tmp_path):
    for name in 'ab':
        make_image_folder(str(tmp_path / name), num_classes=2, train_images=1, val_images=1)
    files = sorted(path.relative_to(tmp_path / 'a') for path in (tmp_path / 'a').rglob('*.JPEG'))
    assert len(files) == 4
    for file in files:
        content = (tmp_path / 'a' / file).read_bytes()
        assert content[:3] == b'\xff\xd8\xff', 'a JPEG file'
        assert content == (tmp_path / 'b' / file).read_bytes()
    assert (tmp_path / 'a' / 'classes.txt').read_text() == 'cross\ndiamond\n'
    with pytest.raises(ValueError, match="already has a 'train'"):
        make_image_folder(str(tmp_path / 'a'))
    with pytest.raises(ValueError, match='num_classes .* 1 to 6, got 7'):
        make_image_folder(str(tmp_path / 'c'), num_classes=7)
