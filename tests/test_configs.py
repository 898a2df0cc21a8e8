"""The recipes: values of the resolved configs against values written down here."""
import math
import re
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATA_SAMPLERS, MODELS, PARAM_SCHEDULERS, init_default_scope

from pervit_mm.apis.inputs import inputs_of, tell_difference
from pervit_mm.apis.named_models import models_by_name
from pervit_mm.engine import launch

mmpretrain = pytest.importorskip('mmpretrain')

CONFIGS = Path(__file__).parents[1] / 'configs'
TOP_LEVEL = sorted(path.stem for path in CONFIGS.glob('*.py'))

# Config: parameters, final width, weight decay, warm-up epochs, drop path rate.
SIZES = {
    'pervit_tiny': (7_591_000, 280, 0.03, 5, 0.0),
    'pervit_small': (21_317_672, 464, 0.05, 5, 0.1),
    'pervit_medium': (43_723_936, 684, 0.05, 20, 0.2),
}
#: The main config of a comparison: the other configs of that comparison.
FASHION = {
    'pervit_nano_fashion-mnist': ('pervit_nano_no-position_fashion-mnist', ),
    'pervit_nano_3e_fashion-mnist': ('pervit_nano_no-position_3e_fashion-mnist',
                                     'pervit_nano_symmetry-noise_3e_fashion-mnist', 'vit_nano_3e_fashion-mnist'),
}


def read(name):
    init_default_scope('mmpretrain')
    return Config.fromfile(str(CONFIGS / f'{name}.py'))


def only(pipeline, kind):
    found = [step for step in pipeline if step['type'] == kind]
    assert len(found) == 1, f'{kind} occurs {len(found)} times'
    return found[0]


def learning_rates(cfg, epochs, epoch_length=1):
    """Learning rate at the start of each epoch (or iteration), by MMEngine's own schedulers."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))],
                                  lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = []
    for item in cfg.param_scheduler:
        item = dict(item)
        kind = PARAM_SCHEDULERS.get(item.pop('type'))
        if item.pop('convert_to_iter_based', False):
            schedulers.append(
                kind.build_iter_from_epoch(optimizer, epoch_length=epoch_length, **item))
        else:
            schedulers.append(kind(optimizer, **item))
    rates = []
    for _ in range(epochs * epoch_length):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates


@pytest.mark.parametrize('name', SIZES)
def test_imagenet_recipes_have_the_authors_values(name):
    params, width, decay, warm_up, drop_path = SIZES[name]
    cfg = read(name)

    assert cfg.default_scope == 'mmpretrain'
    assert cfg.custom_imports == dict(imports=['pervit_mm'], allow_failed_imports=False)
    assert cfg.train_cfg == dict(by_epoch=True, max_epochs=300, val_interval=1)
    assert cfg.auto_scale_lr == dict(base_batch_size=1024)
    assert [hook['type'] for hook in cfg.custom_hooks] == [
        'PerViTRandomStateHook', 'PerViTSyncBuffersHook', 'PerViTNonFiniteHook', 'PerViTPreemptionHook']
    assert cfg.runner_type == 'PerViTRunner' and cfg.default_hooks.checkpoint.type == 'PerViTCheckpointHook'
    assert cfg.default_hooks.logger == dict(type='PerViTLoggerHook', interval=100)
    assert cfg.randomness.diff_rank_seed is True

    wrapper = cfg.optim_wrapper
    assert (wrapper.type, wrapper.dtype, wrapper.loss_scale) == \
        ('AmpOptimWrapper', 'float16', 'dynamic')
    assert wrapper.clip_grad is None
    assert wrapper.get('accumulative_counts', 1) == 1
    assert wrapper.optimizer == dict(
        type='AdamW', lr=1e-3, eps=1e-8, betas=(0.9, 0.999), weight_decay=decay)
    assert wrapper.constructor == 'PerViTGroupedConstructor'  # no layer decay

    model = cfg.model
    assert model.type == 'ImageClassifier' and model.neck is None
    assert model.backbone == dict(
        type='PerViT', arch=name.split('_')[1], img_size=224, drop_path_rate=drop_path)
    assert model.head == dict(
        type='LinearClsHead', num_classes=1000, in_channels=width, topk=(1, 5),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.))
    assert model.train_cfg == dict(
        augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]), 'even odds'

    assert cfg.data_preprocessor == dict(
        type='ClsDataPreprocessor', num_classes=1000, to_rgb=True,
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])

    loader = cfg.train_dataloader
    assert loader.batch_size == 128 and loader.drop_last is True
    assert (loader.num_workers, loader.prefetch_factor) == (14 if name == 'pervit_tiny' else 10, 4)
    assert loader.sampler == dict(type='RepeatAugSampler', shuffle=True, num_repeats=3)
    assert (loader.dataset.type, loader.dataset.data_root, loader.dataset.split) == \
        ('ImageNet', 'data/imagenet', 'train')
    train = loader.dataset.pipeline
    assert [step['type'] for step in train] == [
        'PerViTLoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'RandAugment', 'RandomErasing',
        'PackInputs'], 'no color jitter'
    assert only(train, 'RandomResizedCrop') == dict(
        type='RandomResizedCrop', scale=224, crop_ratio_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3), backend='pillow', interpolation='bicubic')
    assert only(train, 'RandomFlip') == dict(type='RandomFlip', prob=0.5, direction='horizontal')
    assert only(train, 'RandAugment') == dict(
        type='RandAugment', policies='timm_increasing', num_policies=2, total_level=10,
        magnitude_level=9, magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'))
    erasing = only(train, 'RandomErasing')
    assert (erasing.erase_prob, erasing.mode) == (0.25, 'rand')
    assert (erasing.min_area_ratio, erasing.max_area_ratio) == (0.02, 1 / 3)
    assert erasing.aspect_range == (0.3, 10 / 3)
    assert erasing.fill_color == [103.53, 116.28, 123.675], 'images are BGR at this point'
    assert erasing.fill_std == [57.375, 57.12, 58.395]

    for loader, evaluator in ((cfg.val_dataloader, cfg.val_evaluator),
                              (cfg.test_dataloader, cfg.test_evaluator)):
        assert (loader.dataset.type, loader.dataset.data_root, loader.dataset.split) == \
            ('ImageNet', 'data/imagenet', 'val')
        assert loader.dataset.pipeline == [
            dict(type='LoadImageFromFile'),
            dict(type='ResizeEdge', scale=256, edge='short', backend='pillow',
                 interpolation='bicubic'),
            dict(type='CenterCrop', crop_size=224),
            dict(type='PackInputs')]
        assert loader.sampler == dict(type='DefaultSampler', shuffle=False)
        assert not loader.get('drop_last', False)
        assert evaluator == dict(type='Accuracy', topk=(1, 5))

    # Build all of `cfg.model`, so that a rule added to it later is tested too.
    network = MODELS.build(model)
    assert sum(p.numel() for p in network.parameters()) == params

    wrapper = dict(wrapper, type='OptimWrapper')
    del wrapper['loss_scale'], wrapper['dtype']
    groups = build_optim_wrapper(network, wrapper).optimizer.param_groups
    assert len(groups) == 2
    seen = {id(p): group['weight_decay'] for group in groups for p in group['params']}
    assert len(seen) == sum(len(group['params']) for group in groups) == \
        len(list(network.parameters()))
    wrong = [f'{key} {tuple(p.shape)} {seen[id(p)]}' for key, p in network.named_parameters()
             if seen[id(p)] != (decay if p.ndim >= 2 else 0)]
    assert not wrong
    assert {group['lr'] for group in groups} == {1e-3}

    rates = learning_rates(cfg, 300)
    for epoch, rate in enumerate(rates):
        if epoch < warm_up:
            expected, tolerance = 1e-6 + epoch * (1e-3 - 1e-6) / warm_up, 0.01
        else:
            cosine = 1 + math.cos(math.pi * epoch / 300)
            expected, tolerance = 1e-5 + (1e-3 - 1e-5) * cosine / 2, 1e-4
        assert rate == pytest.approx(expected, rel=tolerance), f'epoch {epoch}'
    assert rates[0] == pytest.approx(1e-6)


@pytest.mark.parametrize('name', SIZES)
def test_bfloat16_recipes_differ_in_the_precision_alone(name):
    fp16, bf16 = read(name), read(f'{name}_bf16')
    wrapper = dict(fp16.optim_wrapper)
    assert bf16.optim_wrapper == {**wrapper, 'dtype': 'bfloat16', 'loss_scale': dict(enabled=False)}
    assert {key: value for key, value in bf16.items() if key != 'optim_wrapper'} == {
        key: value for key, value in fp16.items() if key != 'optim_wrapper'}
    # MMEngine hands the dict to torch's scaler, which then leaves loss and gradients alone.
    scaler = torch.amp.GradScaler('cpu', **bf16.optim_wrapper.loss_scale)
    loss = torch.ones((), requires_grad=True)
    assert scaler.scale(loss) is loss and scaler.state_dict() == {}


def test_repeated_augmentation_has_the_authors_length():
    """1,281,167 images in batches of 8 x 128. The sampler's length differs from the authors', the epoch's does not."""
    init_default_scope('mmpretrain')
    with patch('mmpretrain.datasets.samplers.repeat_aug.get_dist_info', return_value=(3, 8)):
        sampler = DATA_SAMPLERS.build(
            dict(type='RepeatAugSampler', num_repeats=3, seed=0, dataset=range(1_281_167)))
    authors = 1_281_167 // 256 * 256 // 8
    assert len(sampler) // 128 == authors // 128 == 1251
    assert len(sampler) != authors, 'the comment in the config says they differ'


@pytest.mark.parametrize('name', ['pervit_small_384px', 'pervit_medium_384px'])
def test_384px_recipes_have_their_values(name):
    cfg = read(name)
    params, width, *_, drop_path = SIZES[name[:-len('_384px')]]
    assert cfg.load_from == f'work_dirs/{name[:-len("_384px")]}/epoch_300.pth'
    assert cfg.model.backbone == dict(
        type='PerViT', arch=name.split('_')[1], img_size=384, drop_path_rate=drop_path)
    assert cfg.model.train_cfg is None, 'no Mixup or CutMix'
    assert cfg.train_cfg.max_epochs == 30
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=2e-5, eps=1e-8, betas=(0.9, 0.999), weight_decay=1e-8)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 512
    assert only(cfg.train_dataloader.dataset.pipeline, 'RandomResizedCrop').scale == 384
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert only(loader.dataset.pipeline, 'ResizeEdge').scale == 438
        assert only(loader.dataset.pipeline, 'CenterCrop').crop_size == 384
    network = MODELS.build(cfg.model)
    assert sum(p.numel() for p in network.parameters()) == params
    small = MODELS.build(read(name[:-len('_384px')]).model)
    network.load_state_dict(small.state_dict(), strict=True)
    rates = learning_rates(cfg, 30, epoch_length=4)
    assert rates[0] == pytest.approx(2e-8)
    assert max(rates) == pytest.approx(2e-5)
    assert rates[-1] < 1e-6


@pytest.mark.parametrize('name', ['pervit_tiny_finetune_custom', 'pervit_nano_finetune_custom'])
def test_the_custom_folder_configs_are_consistent(name):
    cfg = read(name)
    assert cfg.num_classes == cfg.model.head.num_classes == cfg.data_preprocessor.num_classes
    assert cfg.model.backbone.init_cfg == dict(
        type='Pretrained', checkpoint=cfg.checkpoint, prefix='backbone.')
    assert 'init_cfg' in cfg.model.head, 'the head is made anew'
    for loader, split in ((cfg.train_dataloader, 'train'), (cfg.val_dataloader, 'val')):
        assert (loader.dataset.type, loader.dataset.data_root, loader.dataset.data_prefix) == \
            ('CustomDataset', 'data/custom', split)


def test_fine_tuning_of_nano_prepares_images_as_the_classifier_did():
    cfg, trained = read('pervit_nano_finetune_custom'), read('pervit_nano_fashion-mnist')
    assert tell_difference(cfg.checkpoint, inputs_of(trained), inputs_of(cfg)) is None
    assert cfg.checkpoint == models_by_name()['pervit_nano_fashion-mnist'][1]
    rates = learning_rates(cfg, cfg.train_cfg.max_epochs, epoch_length=10)
    assert max(rates) == pytest.approx(cfg.optim_wrapper.optimizer.lr, rel=1e-2) and rates[-1] < 2e-5


@pytest.mark.parametrize('name, main', [(name, main) for main, others in FASHION.items() for name in (main, *others)])
def test_fashion_mnist_configs_differ_in_the_backbone_alone(name, main):
    """The configs of a comparison share everything but the backbone. Test images are used only for evaluation."""
    cfg, main = read(name), read(main)
    for key in set(main.keys()) | set(cfg.keys()):
        if key != 'model':
            assert cfg.get(key) == main.get(key), key
    assert cfg.model.head.loss == main.model.head.loss
    assert cfg.train_dataloader.dataset.split == 'train'
    assert not cfg.train_dataloader.dataset.get('test_mode', False)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        # MMPretrain 1.2.0 chooses the files by test_mode, not by split.
        assert loader.dataset.split == 'test' and loader.dataset.test_mode is True
        assert not loader.get('drop_last', False)
    assert 'save_best' not in cfg.default_hooks.checkpoint
    length = 60_000 // cfg.train_dataloader.batch_size
    rates = learning_rates(cfg, cfg.train_cfg.max_epochs, epoch_length=length)
    assert max(rates) == pytest.approx(cfg.optim_wrapper.optimizer.lr, rel=1e-3)
    assert rates[-1] == pytest.approx(1e-5, rel=0.1)

    network = MODELS.build(cfg.model)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(487_000, rel=0.04)
    network.init_weights()
    logits = network(torch.zeros(2, 1, 28, 28))
    assert logits.shape == (2, 10)
    positions = [key for key in network.state_dict() if 'position' in key]
    assert bool(positions) == (name.startswith('pervit') and 'no-position' not in name)


def test_symmetry_noise_reaches_the_weights():
    network = MODELS.build(read('pervit_nano_symmetry-noise_3e_fashion-mnist').model)
    network.init_weights()
    weight = network.backbone.blocks[0].attn.position.conv1.weight.detach()
    assert float(weight.std() / weight.mean()) == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize('name', TOP_LEVEL)
def test_every_config_builds_and_names_its_work_dir(name):
    cfg = read(name)
    assert MODELS.build(cfg.model).__class__.__name__ == cfg.model.type
    assert launch.default_work_dir(str(CONFIGS / f'{name}.py')) == f'./work_dirs/{name}'
    assert cfg.get('work_dir') is None, 'it would hide the name'


def test_config_names_are_unique():
    stems = [path.stem for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts]
    assert sorted(stems) == sorted(set(stems))


@pytest.mark.parametrize('place, scope', enumerate(('mmpretrain', 'mmdet', 'mmseg')))
def test_the_configs_of_the_readme_lower_their_rate(place, scope, tmp_path):
    """A rate at which the base's schedule ends would never move. Epochs are taken to have 1,000 iterations."""
    pytest.importorskip(scope)
    text = (Path(__file__).parents[1] / 'README.md').read_text()
    blocks = re.findall(r'^```python\n(_base_.*?)^```', text, re.S | re.M)
    (tmp_path / 'page.py').write_text(blocks[place])
    cfg = Config.fromfile(str(tmp_path / 'page.py'))
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=cfg.optim_wrapper.optimizer.lr)
    epochs, length = (cfg.train_cfg.max_epochs, 1000) if 'max_epochs' in cfg.train_cfg else (1, cfg.train_cfg.max_iters)
    of_epochs, of_iterations = [], []
    for rule in cfg.param_scheduler:
        rule = {key: value for key, value in rule.items() if key not in ('convert_to_iter_based', '_scope_')}
        rule.setdefault('end', epochs if rule.get('by_epoch', True) else length)  # as Runner does
        scheduler = PARAM_SCHEDULERS.get(rule.pop('type'))(optimizer, **rule)
        (of_epochs if scheduler.by_epoch else of_iterations).append(scheduler)
    optimizer.step()
    rates = []
    for _ in range(epochs):
        for _ in range(length if of_iterations else 0):
            for scheduler in of_iterations:
                scheduler.step()
            rates.append(optimizer.param_groups[0]['lr'])
        for scheduler in of_epochs:
            scheduler.step()
        rates.append(optimizer.param_groups[0]['lr'])
    assert rates[-1] < 0.1 * max(rates) and max(rates) == pytest.approx(cfg.optim_wrapper.optimizer.lr)
