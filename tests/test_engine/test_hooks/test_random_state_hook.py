"""A killed and resumed run repeats the losses of the undisturbed one, to the last bit."""
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import Runner

from pervit_mm.checkpoints.allow_list import allow_checkpoint_types
from pervit_mm.engine.hooks.random_state import SkippedBatches, get_generators, set_generators
from pervit_mm.engine.hooks.random_state_hook import CHECKPOINT_KEY, PerViTRandomStateHook

pytest.importorskip('mmpretrain')
allow_checkpoint_types()

pytestmark = pytest.mark.usefixtures('one_thread')
EPOCHS, BATCHES, BATCH = 3, 3, 4
MIDDLE = 2 * BATCHES + 1  # the second iteration of the third epoch
OTHER_SEED = 77


class Killed(Exception):
    """Raised in the middle of an epoch."""


@DATASETS.register_module(force=True)
class RandomStateImages(BaseDataset):
    """Twelve small noise images of three classes, held in memory."""

    METAINFO = dict(classes=('a', 'b', 'c'))

    def load_data_list(self):
        pixels = np.random.default_rng(0).integers(0, 256, (EPOCHS * BATCH, 8, 8, 3), np.uint8)
        return [dict(img=image, gt_label=i % 3, sample_idx=i) for i, image in enumerate(pixels)]


@HOOKS.register_module(force=True)
class RandomStateRecorder(Hook):
    """Records each loss, draws random numbers after validation, and may end the run."""

    def __init__(self, kill_at=None, how='raise', log=None):
        self.kill_at, self.how, self.log = kill_at, how, log
        self.losses = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.kill_at:
            if self.how == 'exit':
                os._exit(9)
            raise Killed

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter] = outputs['loss'].item()
        if self.log:
            with open(self.log, 'a') as file:
                file.write(f'{runner.iter} {outputs["loss"].item()!r}\n')

    def after_val_epoch(self, runner, metrics=None):
        # A hook may draw numbers after a validation. The resumed run doesn't repeat that validation.
        torch.rand(5), np.random.rand(3), random.random()


def make_cfg(work_dir, workers=0, persistent=False, by_epoch=True, hook=True, reseed=True, seed=7,
             resume=False, save_best=None, val=True, draw_in_main=True,
             optimizer=None, **recorder):
    loader = dict(num_workers=workers, persistent_workers=persistent, batch_size=BATCH)
    data = dict(type='RandomStateImages', serialize_data=False, pipeline=[
        dict(type='RandomResizedCrop', scale=8, crop_ratio_range=(0.3, 1.0)),
        dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')])
    val_data = dict(data, pipeline=[dict(type='PackInputs')])
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    cfg = dict(
        default_scope='mmpretrain',
        model=dict(
            type='ImageClassifier',
            backbone=dict(
                type='VisionTransformer', img_size=8, patch_size=4, out_type='avg_featmap',
                with_cls_token=False, drop_path_rate=0.5 if draw_in_main else 0,
                arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=8)),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=8),
            data_preprocessor=dict(
                type='ClsDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, num_classes=3),
            train_cfg=dict(augments=[
                dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])
            if draw_in_main else None),
        train_dataloader=dict(loader, dataset=data, sampler=sampler),
        optim_wrapper=dict(optimizer=optimizer or dict(type='AdamW', lr=0.01)),
        train_cfg=dict(by_epoch=True, max_epochs=EPOCHS, val_interval=1) if by_epoch else
        dict(by_epoch=False, max_iters=EPOCHS * BATCHES, val_interval=BATCHES),
        randomness=dict(seed=seed),
        custom_hooks=[dict(type='RandomStateRecorder', **recorder)],
        default_hooks=dict(checkpoint=dict(
            type='CheckpointHook', interval=1 if by_epoch else BATCHES, by_epoch=by_epoch,
            save_best=save_best)),
        log_level='ERROR', experiment_name=f'random-state-{len(MessageHub._instance_dict)}',
        work_dir=str(work_dir), resume=resume)
    if val:
        cfg.update(
            val_dataloader=dict(loader, dataset=val_data,
                                sampler=dict(type='DefaultSampler', shuffle=False)),
            val_cfg=dict(), val_evaluator=dict(type='Accuracy'))
    if hook:
        cfg['custom_hooks'].append(dict(type='PerViTRandomStateHook', reseed_workers=reseed))
    return Config(cfg)


def run(cfg):
    """Train and return ``{iteration: loss}``. A run that kills itself returns the losses up to then."""
    runner = Runner.from_cfg(cfg)
    try:
        runner.train()
    except Killed:
        pass
    finally:
        # The garbage collector would wait 5 seconds for each persistent worker.
        for loop in (runner._train_loop, runner._val_loop):
            workers = getattr(getattr(loop, 'dataloader', None), '_iterator', None)
            if workers is not None:
                workers._shutdown_workers()
    return next(h for h in runner.hooks if isinstance(h, RandomStateRecorder)).losses


def interrupted(tmp_path, resume_with=None, **options):
    """Losses of an undisturbed run, of a run killed at MIDDLE, and of the run that resumes it."""
    whole = run(make_cfg(tmp_path / 'whole', **options))
    first = run(make_cfg(tmp_path / 'killed', kill_at=MIDDLE, **options))
    second = run(make_cfg(tmp_path / 'killed', resume=True, **{**options, **(resume_with or {})}))
    assert sorted(whole) == list(range(EPOCHS * BATCHES))
    assert len(set(whole.values())) == len(whole)
    # The run is killed in the third epoch and resumed at the start of that epoch.
    assert sorted(first) == list(range(MIDDLE))
    assert sorted(second) == list(range(2 * BATCHES, EPOCHS * BATCHES))
    return whole, first, second


def part(losses, start):
    return {i: loss for i, loss in losses.items() if i >= start}


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('workers, persistent', [(0, False), (2, False), (2, True)])
def test_resumed_run_repeats_the_losses(tmp_path, by_epoch, workers, persistent):
    whole, first, second = interrupted(
        tmp_path, by_epoch=by_epoch, workers=workers, persistent=persistent)
    assert first == {i: whole[i] for i in range(MIDDLE)}
    assert second == part(whole, 2 * BATCHES)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_losses_differ_without_the_hook(tmp_path, by_epoch):
    whole, first, second = interrupted(tmp_path, by_epoch=by_epoch, hook=False)
    assert first == {i: whole[i] for i in range(MIDDLE)}
    assert all(second[i] != whole[i] for i in second)


def test_persistent_workers_repeat_the_losses_only_with_new_seeds(tmp_path):
    """Only the workers draw random numbers here: there is no Mixup and no DropPath."""
    options = dict(workers=2, draw_in_main=False, val=False)
    whole, _, second = interrupted(tmp_path / 'a', persistent=True, reseed=False, **options)
    assert all(second[i] != whole[i] for i in second)
    # Workers that are started for each epoch always get the same seeds, so a resume loses nothing.
    whole, _, second = interrupted(tmp_path / 'b', persistent=False, reseed=False, **options)
    assert second == part(whole, 2 * BATCHES)
    # With new seeds in every epoch, it makes no difference whether workers persist.
    persistent, _, second = interrupted(tmp_path / 'c', persistent=True, **options)
    started = run(make_cfg(tmp_path / 'd', persistent=False, **options))
    assert second == part(persistent, 2 * BATCHES)
    assert persistent == started


@pytest.mark.parametrize('by_epoch', [True, False])
def test_validation_disturbs_nothing(tmp_path, by_epoch):
    assert (run(make_cfg(tmp_path / 'a', by_epoch=by_epoch)) ==
            run(make_cfg(tmp_path / 'b', by_epoch=by_epoch, val=False)))


@pytest.mark.parametrize('by_epoch', [True, False])
def test_the_best_checkpoint_holds_the_same_random_state(tmp_path, by_epoch):
    """The best checkpoint is saved after validation and holds the same state as the epoch's own."""
    # MMEngine leaves the optimizer out of the best checkpoint. Plain SGD has no state to lose.
    options = dict(by_epoch=by_epoch, optimizer=dict(type='SGD', lr=0.1))
    whole = run(make_cfg(tmp_path / 'a', save_best='accuracy/top1', **options))
    best, = (tmp_path / 'a').glob('best_*.pth')
    meta = torch.load(best)['meta']
    assert meta['iter'] % BATCHES == 0
    name = f'epoch_{meta["epoch"]}.pth' if by_epoch else f'iter_{meta["iter"]}.pth'
    assert_same(torch.load(best)[CHECKPOINT_KEY],
                torch.load(tmp_path / 'a' / name)[CHECKPOINT_KEY])
    cfg = make_cfg(tmp_path / 'b', resume=True, **options)
    cfg.load_from = str(best)
    assert run(cfg) == part(whole, meta['iter'])


def test_a_process_that_is_killed_hard_is_resumed_alike(tmp_path):
    """The checkpoints are all that is left of the first process."""
    whole = run(make_cfg(tmp_path / 'whole'))
    code = ('import sys; sys.path.insert(0, sys.argv[1]); import test_random_state_hook as t;'
            't.torch.set_num_threads(1);'
            't.run(t.make_cfg(sys.argv[2], kill_at=t.MIDDLE, how="exit", log=sys.argv[3]))')
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, '-c', code, str(here.parent), str(tmp_path / 'killed'),
         str(tmp_path / 'log')], cwd=here.parents[3], capture_output=True, text=True, check=False,
        env={**os.environ, 'PYTHONPATH': str(here.parents[3])})
    assert done.returncode == 9, done.stderr
    lines = [line.split() for line in (tmp_path / 'log').read_text().splitlines()]
    assert {int(i): float(loss) for i, loss in lines} == {i: whole[i] for i in range(MIDDLE)}
    assert run(make_cfg(tmp_path / 'killed', resume=True)) == part(whole, 2 * BATCHES)


def test_data_order_is_restored_without_a_fixed_seed(tmp_path):
    """MMEngine draws a new seed for the resumed sampler. The hook restores the old seed."""
    whole, _, second = interrupted(tmp_path, workers=2, resume_with=dict(seed=OTHER_SEED))
    assert second == part(whole, 2 * BATCHES)


@pytest.fixture
def warnings_of_hook(monkeypatch):
    texts = []
    monkeypatch.setattr(MMLogger, 'warning', lambda self, text, *args, **kwargs: texts.append(text))
    return lambda: [text for text in texts if text.startswith('PerViTRandomStateHook')]


def test_iteration_based_run_without_a_fixed_seed_warns(tmp_path, warnings_of_hook):
    interrupted(tmp_path, by_epoch=False, val=False, resume_with=dict(seed=OTHER_SEED))
    text, = warnings_of_hook()
    assert f'has seed {OTHER_SEED}' in text and 'randomness = dict(seed=7)' in text


def test_persistent_workers_warn_once_without_reseeding(tmp_path, warnings_of_hook):
    run(make_cfg(tmp_path, workers=1, persistent=True, reseed=False, val=False))
    text, = warnings_of_hook()
    assert 'persistent workers' in text and 'reseed_workers=True' in text


def test_other_number_of_processes_warns(tmp_path, warnings_of_hook):
    run(make_cfg(tmp_path, kill_at=MIDDLE, val=False))
    path = tmp_path / 'epoch_2.pth'
    checkpoint = torch.load(path)
    checkpoint[CHECKPOINT_KEY]['ranks'] *= 2
    torch.save(checkpoint, path)
    run(make_cfg(tmp_path, resume=True, val=False))
    text, = warnings_of_hook()
    assert '2 processes, this run has 1' in text


def test_checkpoint_without_random_state_warns(tmp_path, warnings_of_hook):
    run(make_cfg(tmp_path, kill_at=MIDDLE, val=False, hook=False))
    run(make_cfg(tmp_path, resume=True, val=False))
    text, = warnings_of_hook()
    assert 'holds no random state' in text


def test_load_from_restores_nothing(tmp_path, warnings_of_hook):
    run(make_cfg(tmp_path / 'a', kill_at=MIDDLE, val=False))
    losses = []
    for hook in (True, False):
        cfg = make_cfg(tmp_path / f'b{hook}', kill_at=BATCHES, val=False, hook=hook)
        cfg.load_from = str(tmp_path / 'a' / 'epoch_2.pth')
        losses.append(run(cfg))
    assert losses[0] == losses[1] and len(losses[0]) == BATCHES
    assert not warnings_of_hook()


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        [assert_same(a[key], b[key]) for key in a]
    elif isinstance(a, list):
        assert len(a) == len(b)
        [assert_same(*pair) for pair in zip(a, b)]
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_state_holds_plain_types_and_restores_every_generator(tmp_path):
    random.gauss(0, 1), np.random.randn(3), torch.randn(3)  # these leave the second number of a pair in the generators

    def check(value):
        if isinstance(value, (dict, list)):
            [check(part) for part in (value.values() if isinstance(value, dict) else value)]
        else:
            assert value is None or type(value) in (torch.Tensor, int, float, str)

    state = get_generators()
    check(state)
    torch.save(state, tmp_path / 'state.pth')

    def draw():
        return [random.gauss(0, 1), random.random(), *np.random.randn(4), *np.random.rand(2),
                *torch.randn(4).tolist()]

    expected = draw()
    assert draw() != expected
    set_generators(torch.load(tmp_path / 'state.pth', weights_only=True))
    assert draw() == expected
    assert_same(get_generators()['numpy']['key'], state['numpy']['key'])


def test_other_number_of_cuda_devices_is_reported(monkeypatch):
    state = get_generators()
    state['cuda'] = state['cuda'] + [torch.zeros(16, dtype=torch.uint8)]
    assert set_generators(get_generators())
    assert not set_generators(state)


def test_a_wrong_argument_is_named():
    with pytest.raises(TypeError, match="reseed_workers must be True or False, got 'yes'"):
        PerViTRandomStateHook(reseed_workers='yes')


def _rank_main(rank, folder):
    """One of two processes that train in step over gloo, each with random numbers of its own."""
    os.environ['LOCAL_RANK'] = str(rank)
    dist = torch.distributed
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    torch.set_num_threads(1)
    for name in ('whole', 'resumed'):
        cfg = make_cfg(f'{folder}/run', val=False, resume=name == 'resumed',
                       log=f'{folder}/{name}_{rank}')
        if cfg.resume:
            cfg.load_from = f'{folder}/run/epoch_2.pth'
        cfg.randomness.diff_rank_seed = True
        cfg.train_dataloader.batch_size = BATCH // 2
        cfg.launcher = 'pytorch'
        cfg.model_wrapper_cfg = dict(device_ids=None, find_unused_parameters=True)
        run(cfg)
        dist.barrier()
    dist.destroy_process_group()


def test_each_rank_restores_its_own_random_state(tmp_path):
    code = ('import sys; sys.path.insert(0, sys.argv[1]); import test_random_state_hook as t;'
            't._rank_main(int(sys.argv[2]), sys.argv[3])')
    here = Path(__file__)
    ranks = [subprocess.Popen(
        [sys.executable, '-c', code, str(here.parent), str(rank), str(tmp_path)],
        cwd=here.parents[3], env={**os.environ, 'PYTHONPATH': str(here.parents[3])},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for rank in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in ranks]
    assert all(process.returncode == 0 for process in ranks), errors
    whole, resumed = (
        [dict(line.split() for line in (tmp_path / f'{name}_{rank}').read_text().splitlines())
         for rank in range(2)] for name in ('whole', 'resumed'))
    assert whole[0] != whole[1]
    state = torch.load(tmp_path / 'run' / 'epoch_2.pth')[CHECKPOINT_KEY]['ranks']
    assert len(state) == 2 and not torch.equal(state[0]['torch'], state[1]['torch'])
    for rank in range(2):
        assert len(resumed[rank]) == BATCHES
        assert resumed[rank] == {i: whole[rank][i] for i in resumed[rank]}


def test_a_loop_that_skips_batches_in_one_call_reads_them_too():
    """The loop of onedl-mmengine calls ``skip_iter``. Its iterator's own would leave the workers' streams behind."""
    class Batches:
        left = [0, 1, 2, 3, 4]

        def __next__(self):
            return self.left.pop(0)

        def skip_iter(self, num_iters):
            pytest.fail('skips without reading')

    batches, done = Batches(), []
    SkippedBatches(batches, 3, lambda: done.append(list(batches.left))).skip_iter(3)
    assert done == [[3, 4]], 'the state is restored once, behind the last dropped batch'
