"""Hooks around Φp in real runners."""
import re

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY_ARCH
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import Runner

from pervit_mm.analysis import draw_position_maps, position_nonlocality
from pervit_mm.models import PerViT


@DATASETS.register_module(force=True)
class RandomImages(BaseDataset):
    """Eight random images of two classes."""

    def load_data_list(self):
        return [dict(index=i) for i in range(8)]

    def prepare_data(self, idx):
        from mmpretrain.structures import DataSample
        rng = np.random.default_rng(idx)
        image = torch.from_numpy(rng.integers(0, 255, (3, 28, 28), dtype=np.uint8))
        return dict(inputs=image, data_samples=DataSample().set_gt_label(idx % 2))


def runner(work_dir, hooks, backbone=None, epochs=2, train_cfg=None, **kwargs):
    runner = Runner(
        model=dict(
            type='ImageClassifier',
            data_preprocessor=dict(num_classes=2, mean=[127.] * 3, std=[64.] * 3),
            backbone=dict(type='PerViT', arch=TINY_ARCH, img_size=28, **(backbone or {})),
            head=dict(type='LinearClsHead', num_classes=2, in_channels=24, topk=(1, ))),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=4, num_workers=0, dataset=dict(type='RandomImages'), collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=train_cfg or dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        custom_hooks=hooks, default_scope='mmpretrain', randomness=dict(seed=0), log_level='INFO',
        experiment_name=f'{work_dir.name}_{len(list(work_dir.iterdir())) if work_dir.exists() else 0}', **kwargs)
    return runner


def log_of(runner):
    return open(f'{runner.log_dir}/{runner.timestamp}.log').read()


def sizes(model):
    return [block.attn.position.norm2.bias.mean().item() for block in model.backbone.blocks]


class Recorder:
    """Keeps what the blocks hold when the first iteration starts."""

    def __init__(self, runner):
        from mmengine.hooks import Hook
        hook = Hook()
        hook.before_train_iter = lambda runner, *a, **k: self.values.append(sizes(runner.model))
        self.values = []
        runner.register_hook(hook, 'VERY_LOW')


def test_init_hook_sets_values_in_time_and_logs_them(tmp_path):
    run = runner(tmp_path, [dict(type='PeripheralInitHook', size=(-1, 3), strength=(2, 1))])
    recorder = Recorder(run)
    run.train()
    assert recorder.values[0] == pytest.approx([-1, 1, 3])
    table = log_of(run).split('Φp at the start')[1]
    rows = re.findall(r'^\s+(\d)\s+(-?[\d.]+)\s+([\d.]+)\s+([\d.]+)$', table, re.M)
    assert [(r[0], float(r[1]), float(r[2])) for r in rows] == [('0', -1, 2), ('1', 1, 1.5), ('2', 3, 1)]
    reach = [float(r[3]) for r in rows]
    assert reach == sorted(reach) and 0 < reach[0]


def test_init_hook_does_nothing_after_load_resume_or_pretrained(tmp_path):
    first = runner(tmp_path / 'a', [dict(type='PeripheralInitHook', size=(-2, 2))], epochs=1)
    first.train()
    trained = sizes(first.model)
    path = str(tmp_path / 'a' / 'epoch_1.pth')
    hook = [dict(type='PeripheralInitHook', size=(-1, 3))]
    init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    for name, kwargs in dict(
            load=dict(load_from=path), resume=dict(load_from=path, resume=True),
            pretrained=dict(backbone=dict(init_cfg=init_cfg))).items():
        run = runner(tmp_path / name, hook, **kwargs)
        recorder = Recorder(run)
        run.train()
        assert recorder.values[0] == trained, name
        assert 'Φp at the start' not in log_of(run), name
        assert 'Φp keeps their values' in log_of(run), name


def test_nonlocality_hook_logs_scalars(tmp_path):
    run = runner(tmp_path, [dict(type='PerViTNonlocalityHook', interval=2)], epochs=3)
    run.train()
    text = (next(tmp_path.rglob('vis_data')) / 'scalars.json').read_text()
    steps = re.findall(r'"nonlocality/block0": ([\d.]+).*?"step": (\d+)', text)
    assert [int(step) for _, step in steps] == [0, 2]
    fresh = PerViT(TINY_ARCH, img_size=28)
    fresh.init_weights()
    assert float(steps[0][0]) == pytest.approx(position_nonlocality(fresh)[0].mean().item(), rel=1e-4)
    assert 'nonlocality after epoch 2' in log_of(run)


def test_map_hook_draws_through_the_visualizer(tmp_path):
    run = runner(tmp_path, [dict(type='PerViTPositionMapHook', query=(2, 3))])
    run.train()
    files = sorted(p.name for p in tmp_path.rglob('position_map*.png'))
    assert files == ['position_map_0.png', 'position_map_1.png', 'position_map_2.png']
    drawn = cv2.imread(str(next(tmp_path.rglob('position_map_2.png'))))[..., ::-1]
    np.testing.assert_array_equal(drawn, draw_position_maps(run.model.backbone, (2, 3)))


def test_mistakes_are_named():
    for name in ('PerViTNonlocalityHook', 'PerViTPositionMapHook'):
        with pytest.raises(ValueError, match=f'interval of {name} must be a positive number .* got 0'):
            HOOKS.build(dict(type=name, interval=0))
    with pytest.raises(ValueError, match='size of PeripheralInit'):
        HOOKS.build(dict(type='PeripheralInitHook', size=1))
    with pytest.raises(ValueError, match=r'query of PerViTPositionMapHook must be a token \(row, column\), got 3'):
        HOOKS.build(dict(type='PerViTPositionMapHook', query=3))


def test_init_hook_acts_on_the_first_start_of_a_run_that_resumes(tmp_path):
    run = runner(tmp_path, [dict(type='PeripheralInitHook', size=(-1, 3))], epochs=1, resume=True)
    recorder = Recorder(run)
    run.train()
    assert recorder.values[0] == pytest.approx([-1, 1, 3])


def test_init_hook_keeps_options_that_it_is_not_given(tmp_path):
    init_cfg = dict(type='PeripheralInit', strength=(2, 1), symmetry_noise=0.1)
    run = runner(tmp_path, [dict(type='PeripheralInitHook', size=(-1, 3))], dict(init_cfg=init_cfg), epochs=1)
    recorder = Recorder(run)
    run.train()
    assert recorder.values[0] == pytest.approx([-1, 1, 3])
    assert run.model.backbone.init_cfg == [dict(init_cfg, size=(-1, 3))]


def test_recorders_by_iteration(tmp_path):
    hooks = [dict(type='PerViTNonlocalityHook', interval=3, by_epoch=False)]
    run = runner(tmp_path, hooks, train_cfg=dict(by_epoch=False, max_iters=7))
    run.train()
    text = (next(tmp_path.rglob('vis_data')) / 'scalars.json').read_text()
    assert re.findall(r'"nonlocality/block0": [\d.]+.*?"step": (\d+)', text) == ['0', '3', '6']
    run = runner(tmp_path / 'epochs', [dict(type='PerViTNonlocalityHook')], train_cfg=dict(by_epoch=False, max_iters=7))
    with pytest.raises(ValueError, match='PerViTNonlocalityHook counts epochs, .* by_epoch=False'):
        run.train()
