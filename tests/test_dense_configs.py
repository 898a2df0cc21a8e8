"""configs/detection and configs/segmentation: values of the resolved configs."""
import copy
import re
from importlib import import_module

import cv2
import numpy as np
import pytest
import torch
from dense_configs import CLASSES, CONFIGS, DROP_PATH, GLOBAL, NAMES, RECIPES, TINY, data_of, differences, read, size_of
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch.nn.modules.batchnorm import _BatchNorm

from pervit_mm.engine import launch
from pervit_mm.models import PerViT, PerViTFeaturePyramid

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

_FACTS = {}


def heads_of(model):
    """Every part of a model's config that has a number of classes."""
    found = []
    for part in (model.get(key) for key in ('bbox_head', 'roi_head', 'decode_head', 'auxiliary_head')):
        for head in (part, part and part.get('bbox_head'), part and part.get('mask_head')):
            found += [h for h in (head if isinstance(head, list) else [head]) if h and 'num_classes' in h]
    return found


def facts(backbone, neck):
    """Values of the real backbone and pyramid, and the shapes of the levels that they give for 64 x 96 pixels."""
    key = repr((backbone, neck))
    if key not in _FACTS:
        parts = [dict(cfg) for cfg in (backbone, neck)]
        for part in parts:
            del part['type']
        del parts[0]['init_cfg']
        model, pyramid = PerViT(**parts[0]).eval(), PerViTFeaturePyramid(**parts[1]).eval()
        with torch.no_grad():
            levels = pyramid(model(torch.rand(1, 3, 64, 96)))
        _FACTS[key] = dict(
            {name: getattr(model, name) for name in ('depths', 'norm_eval', 'out_channels', 'out_indices', 'out_stride',
                                                     'patch_resolution', 'with_cp')},
            in_stride=pyramid.in_stride, levels=[tuple(level.shape) for level in levels],
            norms=[type(m).__name__ for m in model.modules() if isinstance(m, _BatchNorm)],
            windows=[block.window_size for block in model.blocks])
    return _FACTS[key]


def test_recipes_and_sizes_are_complete():
    expected = {f'{folder}/{recipe.format(size)}' for folder, recipes in RECIPES.items() for recipe in recipes
                for size in DROP_PATH}
    assert set(NAMES) == {*expected, GLOBAL}


@pytest.mark.parametrize('name', NAMES)
def test_backbone_and_pyramid_have_the_values_of_their_size(name):
    """Widths, strides and checkpoint are those of the real backbone of that size."""
    cfg, size = read(name), size_of(name)
    backbone, neck = cfg.model.backbone, cfg.model.neck
    assert cfg.custom_imports == dict(imports=['pervit_mm'], allow_failed_imports=False)
    assert (backbone.type, backbone.arch, backbone.img_size, backbone.out_type) == ('PerViT', size, 224, 'featmap')
    assert (backbone.window_size, backbone.drop_path_rate) == ('pretrain', DROP_PATH[size])
    epochs = Config.fromfile(str(CONFIGS / f'pervit_{size}.py')).train_cfg.max_epochs
    folder = launch.default_work_dir(f'configs/pervit_{size}.py')
    assert backbone.init_cfg == dict(
        type='Pretrained', prefix='backbone.', checkpoint=f'{folder}/epoch_{epochs}.pth'.removeprefix('./'))

    real = facts(backbone.to_dict(), neck.to_dict())
    assert real['in_stride'] == real['out_stride'] == 16
    assert real['patch_resolution'] == (14, 14)
    if 'upernet' in name:  # the last block of each stage
        assert real['out_indices'] == tuple(np.cumsum(real['depths']) - 1) == (1, 3, 9, 11)
        assert neck.in_channels == real['out_channels']
    else:
        assert real['out_indices'] == (11, )
        assert (neck.in_channels, ) == real['out_channels']
    if name == GLOBAL:
        assert [i for i, window in enumerate(real['windows']) if window is None] == [2, 5, 8, 11]
        assert real['with_cp']
    else:
        assert real['windows'] == [(14, 14)] * 12
    strides = [4, 8, 16, 32] if cfg.default_scope == 'mmseg' else \
        [8, 16, 32, 64, 128] if 'retinanet' in name else [4, 8, 16, 32, 64]
    assert real['levels'] == [(1, 256, -(-64 // stride), -(-96 // stride)) for stride in strides]

    # BatchNorm keeps its statistics in detection, and is trained over all GPUs in segmentation.
    assert real['norms'] == ['BatchNorm2d' if cfg.default_scope == 'mmdet' else 'SyncBatchNorm'] * 4
    assert real['norm_eval'] is (cfg.default_scope == 'mmdet')


@pytest.mark.parametrize('name', NAMES)
def test_heads_fit_the_pyramid_and_the_classes(name):
    cfg = read(name)
    model, neck, classes = cfg.model, cfg.model.neck, CLASSES[data_of(name)]
    heads = heads_of(model)
    assert len(heads) == (1 if 'retinanet' in name or '_fpn_8x' in name else 4 if 'cascade' in name else 2)
    assert [head.num_classes for head in heads] == [classes] * len(heads)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        data = import_module(f'{cfg.default_scope}.registry').DATASETS.get(cfg.train_dataloader.dataset.type)
    assert len(data.METAINFO['classes']) == classes

    strides, num_outs = list(neck.out_strides), neck.get('num_outs', len(neck.out_strides))
    while len(strides) < num_outs:
        strides.append(2 * strides[-1])
    if cfg.default_scope == 'mmdet':
        dense = model.get('rpn_head') or model.bbox_head
        assert dense.anchor_generator.strides == strides
        assert dense.in_channels == neck.out_channels
        assert model.data_preprocessor.pad_size_divisor % neck.out_strides[-1] == 0
        for key in ('bbox_roi_extractor', 'mask_roi_extractor') if 'roi_head' in model else ():
            assert model.roi_head[key].featmap_strides == list(neck.out_strides)
            assert model.roi_head[key].out_channels == neck.out_channels
        return
    head = model.decode_head
    assert (head.in_channels, head.in_index) == ([neck.out_channels] * len(strides), list(range(len(strides))))
    assert model.data_preprocessor.test_cfg.size_divisor % neck.out_strides[-1] == 0
    assert model.pretrained is None
    if '_fpn_' in name:
        assert head.feature_strides == strides
        assert 'auxiliary_head' not in model
    else:
        assert model.auxiliary_head.in_channels == neck.out_channels


@pytest.mark.parametrize('name', NAMES)
def test_schedules_have_the_values_of_their_recipe(name):
    cfg = read(name)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size
    assert not cfg.auto_scale_lr.get('enable', False), 'only --auto-scale-lr switches it on'
    wrapper = cfg.optim_wrapper
    assert (wrapper.type, wrapper.dtype, wrapper.loss_scale) == ('AmpOptimWrapper', 'float16', 'dynamic')
    assert wrapper.optimizer == dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05), 'nothing of SGD'
    assert wrapper.constructor == 'PerViTLayerDecayConstructor'
    assert wrapper.paramwise_cfg == dict(
        layer_decay_rate=0.8, norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.)
    assert [hook.type for hook in cfg.custom_hooks] == [
        'PerViTRandomStateHook', 'PerViTSyncBuffersHook', 'PerViTNonFiniteHook', 'PerViTPreemptionHook']
    assert cfg.runner_type == 'PerViTRunner' and cfg.default_hooks.checkpoint.type == 'PerViTCheckpointHook'
    assert cfg.default_hooks.logger.type == 'PerViTLoggerHook' and cfg.default_hooks.logger.interval == 50
    warm_up, decay = cfg.param_scheduler
    assert (warm_up.type, warm_up.by_epoch, warm_up.begin) == ('LinearLR', False, 0)
    train = cfg.train_cfg
    if cfg.default_scope == 'mmdet':
        epochs, milestones = (36, [27, 33]) if '3x' in name else (12, [8, 11])
        assert (train.type, train.max_epochs, train.val_interval) == ('EpochBasedTrainLoop', epochs, 1)
        assert (warm_up.start_factor, warm_up.end) == (1e-3, 1000)
        assert decay == dict(
            type='MultiStepLR', by_epoch=True, begin=0, end=epochs, milestones=milestones, gamma=0.1)
        assert cfg.auto_scale_lr.base_batch_size == 16
        return
    batch, thousands = (int(text) for text in re.search(r'_8xb(\d)-amp-(\d+)k_', name).groups())
    assert (train.type, train.max_iters) == ('IterBasedTrainLoop', 1000 * thousands)
    assert train.val_interval == cfg.default_hooks.checkpoint.interval == 100 * thousands
    assert (warm_up.start_factor, warm_up.end) == (1e-6, 1500)
    assert decay == dict(
        type='PolyLR', power=1., eta_min=0., by_epoch=False, begin=warm_up.end, end=train.max_iters)
    assert cfg.train_dataloader.batch_size == batch


@pytest.mark.parametrize('name', NAMES)
def test_processes_draw_dropout_of_their_own(name):
    assert read(name).randomness == dict(seed=None, diff_rank_seed=True)


@pytest.mark.parametrize('name', NAMES)
def test_data_sets_and_crops_are_those_of_the_name(name):
    cfg = read(name)
    loader = cfg.train_dataloader.dataset
    kinds = dict(coco='CocoDataset', ade20k='ADE20KDataset', cityscapes='CityscapesDataset')
    assert loader.type == cfg.val_dataloader.dataset.type == kinds[data_of(name)]
    if cfg.default_scope == 'mmdet':
        metric = cfg.val_evaluator.metric
        assert metric == ('bbox' if 'retinanet' in name else ['bbox', 'segm'])
        resizes = re.findall(r"'type': '(RandomChoiceResize|Resize)'", repr(loader.pipeline))
        assert resizes == (['RandomChoiceResize'] * 3 if '3x' in name else ['Resize'])
        return
    crop = tuple(int(side) for side in name.rsplit('-', 1)[1].split('x'))
    found = [step.crop_size for step in loader.pipeline if step.type == 'RandomCrop']
    assert found == [crop]
    assert cfg.data_preprocessor.size == cfg.model.data_preprocessor.size == crop
    assert cfg.model.data_preprocessor == {k: v for k, v in cfg.data_preprocessor.items() if k != '_scope_'}


@pytest.mark.parametrize('name', [name for name in NAMES if name not in TINY])
def test_variants_change_only_what_their_name_says(name):
    """The other sizes, and the config with global blocks, against the config for tiny."""
    sibling = re.sub('pervit-(tiny-global4|small|medium)_', 'pervit-tiny_', name)
    changed = differences(read(sibling).to_dict(), read(name).to_dict())
    if name == GLOBAL:
        assert changed == {'model.backbone.global_attn_indexes', 'model.backbone.with_cp'}
        return
    widths = {p for p in changed if p.startswith('model.neck.in_channels')}
    assert len(widths) == (4 if 'upernet' in name else 1)
    assert changed - widths == {
        'model.backbone.arch', 'model.backbone.drop_path_rate', 'model.backbone.init_cfg.checkpoint'}


@pytest.mark.parametrize('name', TINY)
def test_train_pipeline_feeds_the_model(name, scope, tmp_path):
    """An image of 480 x 640 goes through the whole training pipeline, twice because of its random branches."""
    cfg = read(name)
    compose = import_module('mmcv.transforms').Compose(copy.deepcopy(cfg.train_dataloader.dataset.pipeline))
    cv2.imwrite(str(tmp_path / 'image.png'), np.random.randint(0, 255, (480, 640, 3), np.uint8))
    labels = np.full((480, 640), 1, np.uint8)
    labels[100:300, 200:500] = 2
    cv2.imwrite(str(tmp_path / 'labels.png'), labels)
    square = [[120., 120., 420., 120., 420., 400., 120., 400.]]
    record = dict(
        img_path=str(tmp_path / 'image.png'), seg_map_path=str(tmp_path / 'labels.png'), seg_fields=[], label_map=None,
        reduce_zero_label=data_of(name) == 'ade20k', height=480, width=640, img_id=0,
        instances=[dict(bbox=[120., 120., 420., 400.], bbox_label=3, mask=square, ignore_flag=0)])
    for _ in range(2):
        out = compose(copy.deepcopy(record))
        sample, shape = out['data_samples'], tuple(out['inputs'].shape[1:])
        assert out['inputs'].dtype == torch.uint8
        if cfg.default_scope == 'mmseg':
            crop = cfg.data_preprocessor.size
            assert all(0 < side <= limit for side, limit in zip(shape, crop))
            assert sample.gt_sem_seg.shape == shape
            classes = set(sample.gt_sem_seg.data.unique().tolist())
            assert classes <= ({0, 1} if data_of(name) == 'ade20k' else {1, 2})
            continue
        assert min(shape) in ({800} if '1x' in name else {side for side, _ in cfg.scales}) or max(shape) == 1333
        if len(sample.gt_instances):  # a random crop may leave no box
            assert sample.gt_instances.labels.tolist() == [3]
            if 'retinanet' not in name:
                assert sample.gt_instances.masks.masks.shape == (1, *shape)
