"""From a config to a runner: options, paths, data."""
import os
import re

import pytest
import torch
from small_run import ROOT, prepare

from pervit_mm.engine import launch, machine
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')


def test_options_of_the_command_line_reach_the_config(small, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, 'has_accelerator', lambda: True)
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


def test_auto_scale_lr_scales_with_the_real_batch(small, tmp_path):
    """The small config has one process with 4 images a batch, and a rate of 1e-3 for 1,024."""
    prepare(small, auto_scale_lr=True, work_dir=str(tmp_path))
    runner = launch.build_runner(small)
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(wrapper, runner.auto_scale_lr)
    assert {group['lr'] for group in wrapper.optimizer.param_groups} == {1e-3 * 4 / 1024}


def test_resume_with_nothing_to_resume_starts_from_load_from(small, tmp_path, monkeypatch):
    """MMEngine would drop load_from and train from random weights."""
    monkeypatch.setattr(machine, 'has_accelerator', lambda: True)
    small.load_from = str(tmp_path / 'pretrained.pth')
    (tmp_path / 'pretrained.pth').touch()
    notes = prepare(small, resume='auto', work_dir=str(tmp_path / 'run'))
    assert small.resume is False and small.load_from == str(tmp_path / 'pretrained.pth')
    assert len(notes) == 1 and 'no checkpoint in' in notes[0] and 'pretrained.pth' in notes[0]
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'last_checkpoint').write_text(str(tmp_path / 'run' / 'epoch_1.pth'))
    torch.save(dict(meta={}, state_dict={}), tmp_path / 'run' / 'epoch_1.pth')
    assert prepare(small, resume='auto', work_dir=str(tmp_path / 'run')) == []
    assert small.resume is True and small.load_from == str(tmp_path / 'run' / 'epoch_1.pth')


def test_amp_replaces_the_plain_optim_wrapper_alone(small, monkeypatch):
    monkeypatch.setattr(machine, 'has_accelerator', lambda: True)
    small.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.))
    prepare(small, amp=True)
    assert small.optim_wrapper.type == 'AmpOptimWrapper'
    assert small.optim_wrapper.loss_scale == 'dynamic'
    small.optim_wrapper.type = 'DeepSpeedOptimWrapper'
    with pytest.raises(UserError, match='DeepSpeedOptimWrapper'):
        prepare(small, amp=True)


def test_types_may_be_classes(small, monkeypatch):
    """As in configs in Python style, which name no strings."""
    from mmengine.hooks import EMAHook
    from mmengine.optim import AmpOptimWrapper, OptimWrapper
    from mmpretrain.datasets import FashionMNIST
    small.custom_hooks = [dict(type=EMAHook), dict(type='PerViTLoggerHook')]
    launch.add_tta(small)
    assert [hook.type for hook in small.custom_hooks] == ['PerViTLoggerHook']
    launch.check_data(dict(train_dataloader=dict(dataset=dict(type=FashionMNIST, data_root='nowhere'))),
                      'train_dataloader')
    small.optim_wrapper = dict(type=AmpOptimWrapper, optimizer=dict(type='SGD', lr=1.))
    small.launcher = 'none'
    monkeypatch.setattr(machine, 'has_accelerator', lambda: False)
    assert len(machine.fit_to_machine(small)) == 1 and small.optim_wrapper.type == 'OptimWrapper'
    monkeypatch.setattr(machine, 'has_accelerator', lambda: True)
    small.optim_wrapper.type = OptimWrapper
    launch._enable_amp(small)
    assert small.optim_wrapper.type == 'AmpOptimWrapper'


@pytest.mark.parametrize('launcher, expected', [('mpi', '3'), ('pytorch', '1')])
def test_each_process_of_open_mpi_has_its_gpu(launcher, expected, monkeypatch):
    """MMEngine wraps the model for the GPU of LOCAL_RANK, which mpirun doesn't set."""
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    monkeypatch.setenv('OMPI_COMM_WORLD_LOCAL_RANK', '3')
    launch.set_local_rank(launcher, 1)
    assert os.environ.pop('LOCAL_RANK') == expected


def test_wrong_paths_are_one_sentence(small, tmp_path):
    with pytest.raises(UserError, match='--resume.*nowhere.pth'):
        prepare(small, resume='nowhere.pth')
    small.load_from = None
    small.model.backbone.init_cfg = [dict(type='Pretrained', checkpoint='nowhere.pth')]
    with pytest.raises(UserError, match='model.backbone.init_cfg.0.checkpoint.*nowhere'):
        prepare(small)
    del small.model.backbone['init_cfg']
    small.val_dataloader.dataset.data_root = 'nowhere'
    with pytest.raises(UserError, match='val_dataloader.dataset .*nowhere/val'):
        prepare(small)
    prepare(small, validate=False)
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='--work-dir'):
        prepare(small, work_dir=str(tmp_path / 'file'))
    small.work_dir = str(tmp_path)
    small.pop('auto_scale_lr')
    with pytest.raises(UserError, match='--auto-scale-lr'):
        prepare(small, auto_scale_lr=True)
    small.train_cfg = None
    with pytest.raises(UserError, match='no train_cfg'):
        prepare(small)
    with pytest.raises(UserError, match='checkpoint.*nowhere.pth'):
        launch.prepare_test_config(small, 'configs/small.py', 'nowhere.pth')


def test_names_of_published_checkpoints_are_looked_up(small, monkeypatch):
    """This holds for every setting that names a checkpoint. The message lists the published ones."""
    monkeypatch.setattr(machine, 'has_accelerator', lambda: True)
    names = [f'pervit_mm://{path.name}' for path in sorted((ROOT / 'checkpoints').glob('*.pth'))]
    wrong = 'pervit_mm://nope.pth'
    beginning, there = f"'{wrong}' is none of the checkpoints", re.escape(f'which are {", ".join(names)}; for a file')
    for name in names:
        launch.prepare_test_config(small, 'configs/small.py', name)
    with pytest.raises(UserError, match=f'^checkpoint: {beginning} .*{there}'):
        launch.prepare_test_config(small, 'configs/small.py', wrong)
    small.load_from, small.resume = wrong, False
    with pytest.raises(UserError, match=f'^load_from: {beginning}'):
        prepare(small)
    small.load_from = names[0]
    small.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=wrong)
    with pytest.raises(UserError, match=f'^model.backbone.init_cfg.checkpoint: {beginning}'):
        prepare(small)
    with pytest.raises(UserError, match=f'^--resume: {beginning}'):
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
def test_missing_data_is_named_unless_it_may_be_remote_or_downloaded(dataset, fails):
    cfg = dict(train_dataloader=dict(dataset=dataset))
    if fails:
        with pytest.raises(UserError, match='nowhere'):
            launch.check_data(cfg, 'train_dataloader')
    else:
        launch.check_data(cfg, 'train_dataloader')


def test_a_missing_split_of_scenes_is_drawn_and_not_searched_for(tmp_path):
    """Scenes of an earlier version have no validation split."""
    (tmp_path / 'fashion_scenes.json').write_text('{}')
    cfg = dict(val_dataloader=dict(dataset=dict(type='CocoDataset', data_root=str(tmp_path), data_prefix='val')))
    with pytest.raises(UserError, match="val' does not exist, .* Draw the scenes anew with tools/prepare_fashion_sce"):
        launch.check_data(cfg, 'val_dataloader')
