"""Hooks around Φp in real runners."""
import re

import cv2
import numpy as np
import pytest
import torch
from classifier_run import log_of, runner
from conftest import TINY_ARCH
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from pervit_mm.analysis import draw_position_maps, position_nonlocality
from pervit_mm.models import PerViT


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


def test_shift_hook_measures_from_the_start_of_the_run_after_resuming_too(tmp_path):
    """Against the definition on the first and the last checkpoint, in a loop."""
    maps, hook = [], Hook()

    def position(runner, *_):
        backbone = runner.model.backbone
        with torch.no_grad():
            maps.append(next(iter(backbone.position_terms(backbone.patch_resolution))).exp().flatten(0, 1))

    def learn(runner, *_, **__):
        with torch.no_grad():
            runner.model.backbone.blocks[0].attn.position.conv2.weight.normal_()

    hook.before_train, hook.after_train, hook.before_train_iter = position, position, learn
    for epochs in (1, 2):
        hooks = [hook, dict(type='PerViTPositionShiftHook')]
        runner(tmp_path / 'run', hooks, epochs=epochs, resume=epochs > 1).train()
    text = '\n'.join(path.read_text() for path in sorted(tmp_path.rglob('scalars.json')))
    last = re.findall(r'"position_shift/block0": ([\d.e-]+)', text)
    assert float(last[0]) == 0 and len(last) == 4  # the second run says what it resumes from
    assert last[1] == last[2] != last[3]
    moved = [sum(abs(a / new.sum() - b / old.sum()) for a, b in zip(new, old)).item() / 2
             for old, new in zip(maps[0], maps[-1])]
    assert float(last[-1]) == pytest.approx(np.mean(moved), rel=1e-3)


def test_mistakes_are_named():
    for name in ('PerViTNonlocalityHook', 'PerViTPositionMapHook', 'PerViTPositionShiftHook'):
        with pytest.raises(ValueError, match=f'interval of {name} must be a positive number .* got 0'):
            HOOKS.build(dict(type=name, interval=0))
    with pytest.raises(ValueError, match='size of PeripheralInit'):
        HOOKS.build(dict(type='PeripheralInitHook', size=1))
    with pytest.raises(ValueError, match=r'query of PerViTPositionMapHook must be a token \(row, column\), got 3'):
        HOOKS.build(dict(type='PerViTPositionMapHook', query=3))


def test_nonlocality_hook_counts_iterations_and_refuses_epochs_there(tmp_path):
    hooks = [dict(type='PerViTNonlocalityHook', interval=3, by_epoch=False)]
    run = runner(tmp_path, hooks, train_cfg=dict(by_epoch=False, max_iters=7))
    run.train()
    text = (next(tmp_path.rglob('vis_data')) / 'scalars.json').read_text()
    assert re.findall(r'"nonlocality/block0": [\d.]+.*?"step": (\d+)', text) == ['0', '3', '6']
    run = runner(tmp_path / 'epochs', [dict(type='PerViTNonlocalityHook')], train_cfg=dict(by_epoch=False, max_iters=7))
    with pytest.raises(ValueError, match='PerViTNonlocalityHook counts epochs, .* by_epoch=False'):
        run.train()
