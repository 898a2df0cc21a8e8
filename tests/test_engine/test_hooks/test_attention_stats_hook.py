"""AttentionStatsHook in real runners: what it logs, and that the training doesn't notice it."""
import json

import numpy as np
import pytest
import torch
from classifier_run import log_of, runner
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS

from pervit_mm.analysis import attention_distance, attention_entropy, capture
from pervit_mm.engine.hooks.recorder import Recorder
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')

HOOK = dict(type='AttentionStatsHook', num_images=3)
VIT = dict(
    type='ImageClassifier', data_preprocessor=dict(num_classes=2, mean=[127.] * 3, std=[64.] * 3),
    backbone=dict(type='VisionTransformer', img_size=28, patch_size=4, drop_rate=0.1, arch=dict(
        embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=32)),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=24, topk=(1, )))
RESNET = dict(VIT, backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
              neck=dict(type='GlobalAveragePooling'), head=dict(VIT['head'], in_channels=64))


@pytest.fixture
def no_pause(monkeypatch):
    """MMEngine's loop by iteration waits two seconds at each end of the data."""
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda seconds: None)


def run_of(folder, hooks, model=None, **kwargs):
    """A runner of classifier_run.py, whose model may be replaced."""
    if model is None:
        return runner(folder, hooks, **kwargs)
    made = runner(folder, hooks, **kwargs)
    made.model = made.build_model(model)
    made.model = made.wrap_model(None, made.model)
    return made


def scalars(folder):
    """{name: [(step, value)]} of what the visualizer got."""
    found = {}
    for line in (next(folder.rglob('vis_data')) / 'scalars.json').read_text().splitlines():
        entry = json.loads(line)
        for name, value in entry.items():
            if name.startswith('attention_'):
                found.setdefault(name, []).append((entry['step'], value))
    return found


def measured(model, dataset, count=3):
    """Distance and entropy of each block by a plain recording in eval mode."""
    inputs = torch.stack([dataset[i]['inputs'] for i in range(count)]).float()
    model.eval()
    with torch.no_grad(), capture(model) as record:
        model.backbone((inputs - 127) / 64)
    return [(attention_distance(block.attention, (7, 7)).mean().item(),
             attention_entropy(block.attention, (7, 7)).mean().item()) for block in record]


@pytest.mark.parametrize('model, blocks', [(None, 3), (VIT, 2)], ids=['PerViT', 'ViT'])
def test_scalars_are_those_of_the_model_at_that_time(tmp_path, model, blocks):
    run = run_of(tmp_path, [HOOK], model)
    run.train()
    found = scalars(tmp_path)
    assert set(found) == {f'attention_{kind}/block{i}' for kind in ('distance', 'entropy') for i in range(blocks)}
    assert all([step for step, _ in values] == [0, 1, 2] for values in found.values())
    # The last ones are those of the model as it is now.
    for i, values in enumerate(measured(run.model, run.train_dataloader.dataset)):
        for kind, value in zip(('distance', 'entropy'), values):
            assert found[f'attention_{kind}/block{i}'][-1][1] == pytest.approx(value, rel=1e-5)
            assert found[f'attention_{kind}/block{i}'][0][1] != found[f'attention_{kind}/block{i}'][-1][1]
    lines = [line for line in log_of(run).splitlines() if 'attention_distance after epoch 2: ' in line]
    assert len(lines) == 1 and len(lines[0].split(': ')[-1].split()) == blocks


class Watcher(Hook):
    """Records losses, and the state that the training is in, at each iteration."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.losses, self.states = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.states.append((torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(),
                            tuple(module.training for module in runner.model.modules())))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())


@pytest.mark.usefixtures('no_pause')
@pytest.mark.parametrize('model, train_cfg', [
    (None, None), (VIT, None), (None, dict(by_epoch=False, max_iters=4))], ids=['PerViT', 'ViT', 'by iteration'])
def test_the_training_does_not_notice_it(tmp_path, model, train_cfg):
    seen = []
    for name, hooks in (('without', []), ('with', [dict(HOOK, by_epoch=train_cfg is None)])):
        # Dropped paths and dropout draw random numbers, the stem has BatchNorm.
        run = run_of(tmp_path / name, hooks, model, train_cfg=train_cfg,
                     **({} if model else dict(backbone=dict(drop_path_rate=0.3))))
        watcher = Watcher()
        run.register_hook(watcher)
        run.train()
        state = {key: value.clone() for key, value in run.model.state_dict().items()}
        seen.append((watcher.losses, watcher.states, state))
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in run.model.modules())
    (losses, states, weights), (other_losses, other_states, other_weights) = seen
    assert len(losses) == 4 and losses == other_losses, 'bit for bit'
    assert states == other_states
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(value, other_weights[key]) for key, value in weights.items())


def test_a_module_that_was_frozen_by_hand_stays_so(tmp_path):
    run = run_of(tmp_path, [HOOK], epochs=1)
    run.model.backbone.stem.eval()
    run.model.train = lambda mode=True: run.model  # the loop would switch it on

    class Check(Hook):
        seen = []

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            self.seen.append((runner.model.backbone.stem.training, runner.model.head.training))

    run.register_hook(Check())
    run.train()
    assert Check.seen == [(False, True)] * 2


def test_the_batch_is_of_the_validation_set_and_random_numbers_are_given_back(tmp_path):

    @DATASETS.register_module(force=True)
    class DrawnImages:
        """Images of noise, drawn when they are read."""
        metainfo = {}

        def __len__(self):
            return 2

        def __getitem__(self, index):
            from mmpretrain.structures import DataSample
            image = torch.randint(0, 255, (3, 28, 28), dtype=torch.uint8)
            np.random.rand(), read.append(index)
            return dict(inputs=image, data_samples=DataSample().set_gt_label(0))

    read = []
    run = run_of(tmp_path, [dict(HOOK, num_images=5)], epochs=1, val_cfg=dict(), val_evaluator=dict(type='Accuracy'),
                 val_dataloader=dict(batch_size=2, num_workers=0, dataset=dict(type='DrawnImages'),
                                     sampler=dict(type='DefaultSampler', shuffle=False),
                                     collate_fn=dict(type='pseudo_collate')))
    hook, = [hook for hook in run.hooks if isinstance(hook, Recorder)]
    random = []
    before = hook.before_train

    def around(runner):
        random.append((torch.get_rng_state(), np.random.get_state()[1].copy(), np.random.get_state()[2]))
        before(runner)
        random.append((torch.get_rng_state(), np.random.get_state()[1].copy(), np.random.get_state()[2]))
        assert read == [0, 1], 'all that there are'

    hook.before_train = around
    run.train()
    (torch_before, numpy_before, place), (torch_after, numpy_after, place_after) = random
    assert torch.equal(torch_before, torch_after) and (numpy_before == numpy_after).all() and place == place_after
    assert [step for step, _ in scalars(tmp_path)['attention_distance/block0']] == [0, 1]


@pytest.mark.usefixtures('no_pause')
def test_it_counts_iterations_and_intervals(tmp_path):
    hook = dict(HOOK, interval=3, by_epoch=False)
    run = run_of(tmp_path, [hook], train_cfg=dict(by_epoch=False, max_iters=7))
    run.train()
    assert [step for step, _ in scalars(tmp_path)['attention_entropy/block2']] == [0, 3, 6]
    assert 'attention_entropy after iteration 6: ' in log_of(run)
    run = run_of(tmp_path / 'epochs', [HOOK], train_cfg=dict(by_epoch=False, max_iters=7))
    with pytest.raises(UserError, match='AttentionStatsHook counts epochs, .* by_epoch=False'):
        run.train()


def test_mistakes_are_named(tmp_path):
    for count in (0, -1, 2., True):
        with pytest.raises(UserError, match=f'num_images of AttentionStatsHook must be a positive number, got {count}'):
            HOOKS.build(dict(HOOK, num_images=count))
    with pytest.raises(UserError, match='interval of AttentionStatsHook must be a positive number .* got 0'):
        HOOKS.build(dict(HOOK, interval=0))
    with pytest.raises(UserError, match='backbone ResNet, which has no tokens that attend'):
        run_of(tmp_path, [HOOK], RESNET).train()
    assert type(HOOKS.build(dict(type='PerViTAttentionStatsHook'))) is type(HOOKS.build(HOOK))
