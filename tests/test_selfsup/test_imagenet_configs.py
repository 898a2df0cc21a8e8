"""Pre-training recipes for ImageNet: the authors' values, and a step of each with fewer prototypes."""
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope

import pervit_mm.selfsup  # noqa: F401  (registers everything)

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')
FOLDER = Path(__file__).parents[2] / 'configs' / 'selfsup'
# From the authors' commands and defaults: batch in all, rate, epochs, prototypes, local crops, smallest share of global
# crops, teacher's temperature, epochs in which it rises.
RECIPES = {
    'dino': (8 * 64, 1e-3, 100, 65536, 8, 0.4, 0.04, 0),
    'ibot': (16 * 64, 2e-3, 800, 8192, 10, 0.25, 0.07, 30),
    'attmask': (4 * 60, 4.6875e-4, 100, 8192, 10, 0.25, 0.07, 30),
    'esvit': (16 * 32, 1e-3, 300, 65536, 8, 0.4, 0.07, 30),
    'sit': (4 * 64, 5e-4, 801, None, 0, 0.2, None, None),
    'simmim': (16 * 128, 4e-4, 800, None, None, None, None, None),
    'mae': (8 * 512, 2.4e-3, 800, None, None, None, None, None),
    'milan': (16 * 256, 2.4e-3, 400, None, None, None, None, None),
}
BENCHMARKS = sorted(path.name for path in (FOLDER / 'benchmarks').glob('*.py'))


def read(system, size):
    path, = FOLDER.glob(f'{system}_pervit-{size}_*_in1k.py')
    return path, Config.fromfile(str(path))


@pytest.mark.parametrize('system', RECIPES)
def test_a_recipe_has_the_authors_values(system):
    path, cfg = read(system, 'tiny')
    batch, lr, epochs, prototypes, crops, scale, temperature, rise = RECIPES[system]
    processes, each = map(int, path.name.split('_')[2].split('-')[0].split('xb'))
    assert batch == processes * each == cfg.auto_scale_lr.base_batch_size and each == cfg.train_dataloader.batch_size
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(lr) and cfg.train_cfg.max_epochs == epochs
    assert f'-{epochs}e_' in path.name and max(one.end for one in cfg.param_scheduler) == epochs
    if crops is not None:
        views, = (step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'MultiCropWithBoxes')
        assert (views.get('num_local', 0), views.global_scale[0]) == (crops, scale)
        hook, = (hook for hook in cfg.custom_hooks if hook.type == 'DistillationHook')
        assert hook.clip_grad == 3. and hook.get('freeze_prototypes', 0) == (prototypes is not None)
        assert cfg.model.momentum == 0.996
    for name in ('head', 'token_head', 'region_head'):
        head = cfg.model.get(name)
        if prototypes is None or head is None:
            continue
        assert head.out_channels == prototypes and head.get('teacher_temp', 0.04) == temperature
        assert head.get('warmup', 0) * epochs == pytest.approx(rise)


def test_leopart_has_the_authors_values():
    """Of their run on a part of ImageNet, which starts from DINO."""
    path, cfg = read('leopart', 'tiny')
    assert '_2xb32-' in path.name and cfg.train_dataloader.batch_size == 32 and cfg.auto_scale_lr.base_batch_size == 64
    assert cfg.train_cfg.max_epochs == 50 == max(one.end for one in cfg.param_scheduler)
    rates = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert cfg.optim_wrapper.optimizer.lr == 1e-5 and {rates[key].lr_mult for key in rates} == {10}
    views, = (step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'MultiCropWithBoxes')
    assert (views.global_size, views.local_size, views.num_local, views.min_overlap) == (224, 96, 4, 0.01)
    assert tuple(views.global_scale) == (0.25, 1.) and tuple(views.local_scale) == (0.05, 0.25)
    assert not any(step.type == 'RandomFlip' for step in [*views.global_transforms, *views.local_transforms])
    head = MODELS.build(cfg.model.head)
    assert (head.out_channels, head.queue_size, head.epsilon, head.iterations) == (300, 8192, 0.05, 3)
    assert (head.student_temp, head.roi_size, cfg.model.momentum) == (0.1, 7, 0.9995)
    start = cfg.model.backbone.init_cfg.checkpoint
    source = Config.fromfile(str(FOLDER / f'{Path(start).parent.name}.py'))
    assert start.endswith(f'epoch_{source.train_cfg.max_epochs}.pth') and source.model.backbone.arch == 'tiny'


@pytest.mark.parametrize('system', [*RECIPES, 'leopart'])
def test_the_larger_network_differs_in_widths_alone(system):
    (_, tiny), (_, small) = read(system, 'tiny'), read(system, 'small')
    assert small.model.backbone.arch == 'small'
    small.model.backbone.arch = 'tiny'
    for cfg in (tiny, small):
        if 'init_cfg' in cfg.model.backbone:  # Leopart starts from another network's weights
            assert f'pervit-{"tiny" if cfg is tiny else "small"}_' in cfg.model.backbone.pop('init_cfg').checkpoint
    for name in ('neck', 'decoder', 'region_neck'):
        if name in small.model:
            assert (tiny.model[name].in_channels, small.model[name].in_channels) == (280, 464)
            small.model[name].in_channels = 280
    if 'target_generator' in small.model:
        teacher = small.model.target_generator
        assert teacher.backbone.arch == 'small' and small.model.neck.target_channels == 464
        assert teacher.checkpoint.replace('small', 'tiny') == tiny.model.target_generator.checkpoint
        small.model.target_generator, small.model.neck.target_channels = tiny.model.target_generator, 280
    for key in ('model', 'optim_wrapper', 'param_scheduler', 'train_dataloader', 'custom_hooks', 'data_preprocessor'):
        assert tiny[key] == small[key], key


@pytest.mark.parametrize('system', [*RECIPES, 'leopart'])
def test_a_recipe_takes_a_step(system):
    """Through its own pipeline, in float32 on the CPU, with 16 prototypes and small heads."""
    _, cfg = read(system, 'tiny')
    for name in ('neck', 'region_neck'):
        if cfg.model.get(name, {}).get('type') == 'DistillationNeck':
            cfg.model[name].update(out_channels=16, hid_channels=32, bottleneck_channels=8)
    for name in ('head', 'token_head', 'region_head'):
        if 'out_channels' in (cfg.model.get(name) or {}):
            cfg.model[name].out_channels = 16
    if system == 'leopart':
        cfg.model.head.in_channels = 8
    if system == 'sit':
        cfg.model.neck.update(hid_channels=32, norm_cfg=dict(type='BN1d'))  # SyncBN needs several GPUs
    if system in ('mae', 'milan'):
        cfg.model.neck.update(embed_dims=32, num_layers=1, num_heads=2)
    if system == 'milan':
        cfg.model.target_generator.checkpoint = None
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        pipeline = [TRANSFORMS.build(step) for step in cfg.train_dataloader.dataset.pipeline[1:]]
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).train()
        optimizer = build_optim_wrapper(model, dict(type='OptimWrapper', optimizer=cfg.optim_wrapper.optimizer))
    samples = []
    for seed in range(2):
        image = np.random.default_rng(seed).integers(0, 256, (260, 300, 3), dtype=np.uint8)
        sample = dict(img=image, img_shape=(260, 300), ori_shape=(260, 300), sample_idx=seed)
        for transform in pipeline:
            sample = transform(sample)
        samples.append(sample)
    if hasattr(model, 'set_progress'):
        model.set_progress(0.5)
    assert np.isfinite(float(model.train_step(default_collate(samples), optimizer)['loss']))


@pytest.mark.parametrize('name', BENCHMARKS)
def test_a_benchmark_starts_from_a_run_of_a_config_that_is_there(name):
    """By the checkpoint of its last epoch, and with a prefix that this run has."""
    cfg = Config.fromfile(str(FOLDER / 'benchmarks' / name))
    start = cfg.model.backbone.get('init_cfg')
    assert ('_scratch_' in name) == (start is None)
    if start is not None:
        work_dir, file = start.checkpoint.removeprefix('work_dirs/').split('/')
        source = Config.fromfile(str(FOLDER / f'{work_dir}.py'))
        assert file == f'epoch_{source.train_cfg.max_epochs}.pth' and work_dir.split('_')[0] in name
        alone = source.model.type in ('SimMIM', 'MAE', 'PerViTMILAN')
        assert start.prefix == ('backbone.' if alone else 'teacher.module.backbone.')
        assert source.model.backbone.arch == cfg.model.backbone.arch
    if name.endswith('-1pct.py'):
        few = cfg.train_dataloader.dataset
        assert (few.type, few.shots) == ('PerViTFewLabels', 13 if 'in1k' in name else 60)
    assert max(one.get('end', 0) for one in cfg.param_scheduler) == cfg.train_cfg.max_epochs
    # The recipe that the ImageNet ones derive from shows each image three times.
    assert cfg.train_dataloader.sampler == dict(type='DefaultSampler', shuffle=True)


def test_linear_benchmarks_train_the_head_alone():
    for name in (name for name in BENCHMARKS if 'linear' in name):
        cfg = Config.fromfile(str(FOLDER / 'benchmarks' / name))
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            cfg.model.backbone.init_cfg = None
            model = MODELS.build(cfg.model).train()
        assert {key for key, param in model.named_parameters() if param.requires_grad} == {
            'head.fc.weight', 'head.fc.bias'}
        assert not any(module.training for module in model.backbone.modules()
                       if type(module).__name__ == 'BatchNorm2d')
