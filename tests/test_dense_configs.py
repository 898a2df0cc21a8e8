"""configs/detection and configs/segmentation: values of the resolved configs, and a step of each with a tiny backbone.

For the step nothing in a config is changed but what ``shrink`` says, and a recursive comparison holds it to that.
"""
import copy
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import naming
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch.nn.modules.batchnorm import _BatchNorm

from pervit_mm.engine import launch
from pervit_mm.models import PerViT, PerViTFeaturePyramid

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

CONFIGS = Path(__file__).parents[1] / 'configs'
NAMES = sorted(f'{folder}/{path.stem}' for folder in ('detection', 'segmentation')
               for path in (CONFIGS / folder).glob('*.py') if 'fashion-scenes' not in path.stem)
RECIPES = {
    'detection': ('mask-rcnn_pervit-{}_fpn_1x_coco', 'mask-rcnn_pervit-{}_fpn_ms-crop-3x_coco',
                  'cascade-mask-rcnn_pervit-{}_fpn_ms-crop-3x_coco', 'retinanet_pervit-{}_fpn_1x_coco'),
    'segmentation': ('pervit-{}_upernet_8xb2-amp-160k_ade20k-512x512', 'pervit-{}_fpn_8xb4-amp-80k_ade20k-512x512',
                     'pervit-{}_upernet_8xb2-amp-80k_cityscapes-512x1024'),
}
GLOBAL = 'detection/mask-rcnn_pervit-tiny-global4_fpn_1x_coco'
TINY = [name for name in NAMES if 'pervit-tiny_' in name]
DROP_PATH = dict(tiny=0.1, small=0.2, medium=0.3)
CLASSES = dict(coco=80, ade20k=150, cityscapes=19)

# Four stages of one block each, stride 16: block i gives 24, 32, 40, 40 channels.
ARCH = dict(embed_dims=(16, 24, 32, 40), depths=(1, 1, 1, 1), num_heads=2, stem_channels=(8, 8, 8))
WIDTHS = (24, 32, 40, 40)
DEPTH = 4


@cache
def read(name):
    """The resolved config; never changed."""
    return Config.fromfile(str(CONFIGS / f'{name}.py'))


@pytest.fixture
def scope(request):
    """Scope of the config that the test is parametrized with, for the time of the test."""
    with DefaultScope.overwrite_default_scope(read(request.getfixturevalue('name')).default_scope):
        yield


def size_of(name):
    return re.search('pervit-(tiny|small|medium)', name)[1]


def data_of(name):
    return re.search('coco|ade20k|cityscapes', name)[0]


def heads_of(model):
    """Every part of a model's config that knows a number of classes."""
    found = []
    for part in (model.get(key) for key in ('bbox_head', 'roi_head', 'decode_head', 'auxiliary_head')):
        for head in (part, part and part.get('bbox_head'), part and part.get('mask_head')):
            found += [h for h in (head if isinstance(head, list) else [head]) if h and 'num_classes' in h]
    return found


def differences(old, new, path=''):
    """Paths at which two resolved configs differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {p for key in {**old, **new} for p in differences(
            old.get(key, '(none)'), new.get(key, '(none)'), f'{path}.{key}' if path else key)}
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)) and len(old) == len(new):
        return {p for i, pair in enumerate(zip(old, new)) for p in differences(*pair, f'{path}.{i}')}
    return set() if type(old) is type(new) and old == new else {path}


# ---- values of the resolved configs

_FACTS = {}


def facts(backbone, neck):
    """What a reader would ask the real backbone and pyramid, and the levels they give for 64 x 96 pixels."""
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
def test_backbone_and_pyramid(name):
    """Widths, strides and checkpoint are what the real backbone of that size has."""
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

    # BatchNorm: kept in detection, trained over all GPUs in segmentation.
    assert real['norms'] == ['BatchNorm2d' if cfg.default_scope == 'mmdet' else 'SyncBatchNorm'] * 4
    assert real['norm_eval'] is (cfg.default_scope == 'mmdet')


@pytest.mark.parametrize('name', NAMES)
def test_heads_fit_pyramid(name):
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
def test_schedule(name):
    cfg = read(name)
    wrapper = cfg.optim_wrapper
    assert (wrapper.type, wrapper.dtype, wrapper.loss_scale) == ('AmpOptimWrapper', 'float16', 'dynamic')
    assert wrapper.optimizer == dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05), 'nothing of SGD'
    assert wrapper.constructor == 'PerViTLayerDecayConstructor'
    assert wrapper.paramwise_cfg == dict(
        layer_decay_rate=0.8, norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.)
    assert [hook.type for hook in cfg.custom_hooks] == ['PerViTRandomStateHook']
    warm_up, decay = cfg.param_scheduler
    assert (warm_up.type, warm_up.by_epoch, warm_up.begin) == ('LinearLR', False, 0)
    train = cfg.train_cfg
    if cfg.default_scope == 'mmdet':
        epochs, milestones = (36, [27, 33]) if '3x' in name else (12, [8, 11])
        assert (train.type, train.max_epochs, train.val_interval) == ('EpochBasedTrainLoop', epochs, 1)
        assert (warm_up.start_factor, warm_up.end) == (1e-3, 1000)
        assert decay == dict(
            type='MultiStepLR', by_epoch=True, begin=0, end=epochs, milestones=milestones, gamma=0.1)
        assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
        return
    batch, thousands = (int(text) for text in re.search(r'_8xb(\d)-amp-(\d+)k_', name).groups())
    assert (train.type, train.max_iters) == ('IterBasedTrainLoop', 1000 * thousands)
    assert train.val_interval == cfg.default_hooks.checkpoint.interval == 100 * thousands
    assert (warm_up.start_factor, warm_up.end) == (1e-6, 1500)
    assert decay == dict(
        type='PolyLR', power=1., eta_min=0., by_epoch=False, begin=warm_up.end, end=train.max_iters)
    assert cfg.train_dataloader.batch_size == batch


@pytest.mark.parametrize('name', NAMES)
def test_data(name):
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
def test_variants_change_nothing_else(name):
    """The other sizes and the global variant, on top of their tiny sibling."""
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
    """A picture of 480 x 640 goes through the whole training pipeline, twice for its random branches."""
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


# ---- one step with a tiny backbone


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """What the tiny backbone's ImageNet training would write: {'state_dict': {'backbone.…', 'head.…'}}."""
    torch.manual_seed(7)
    backbone = PerViT(ARCH)
    backbone.init_weights()
    state = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    state['backbone.stem.layers.0.norm.running_mean'].add_(0.25)
    state['head.fc.weight'] = torch.rand(1000, WIDTHS[-1])
    path = tmp_path_factory.mktemp('checkpoint') / 'epoch_300.pth'
    torch.save(dict(state_dict=state), path)
    return path


def shrink(name, checkpoint):
    """A config with a small backbone.

    Changed are ``arch``, the path of its checkpoint, and what follows from its widths and its four blocks; the rest
    is the config's own.
    """
    original = read(name)
    cfg = copy.deepcopy(original)
    backbone, neck = cfg.model.backbone, cfg.model.neck
    backbone.arch = ARCH
    backbone.init_cfg.checkpoint = str(checkpoint)
    expected = {'model.backbone.arch', 'model.backbone.init_cfg.checkpoint'}
    if 'out_indices' in backbone:  # last block of each stage: blocks 9 and 11 are not there
        backbone.out_indices, neck.in_channels = tuple(range(DEPTH)), WIDTHS
        expected |= {f'model.{key}.{i}' for key in ('backbone.out_indices', 'neck.in_channels') for i in range(4)}
    else:
        neck.in_channels = WIDTHS[-1]
        expected |= {'model.neck.in_channels'}
    if 'global_attn_indexes' in backbone:  # (2, 5, 8, 11): one windowed, one global in turn
        backbone.global_attn_indexes = (1, 3)
        expected |= {'model.backbone.global_attn_indexes'}
    assert differences(original.to_dict(), cfg.to_dict()) == expected
    return cfg


def detection_sample(height, width):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    boxes = torch.tensor([[4., 6., 40., 52.], [20., 30., 60., 90.]])
    masks = np.zeros((2, height, width), np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist()):
        mask[y0:y1, x0:x1] = 1
    sample = DetDataSample(metainfo=dict(
        img_id=0, img_shape=(height, width), ori_shape=(height, width), scale_factor=(1., 1.)))
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.tensor([1, 7]), masks=BitmapMasks(masks, height, width))
    return sample


def segmentation_sample(height, width):
    from mmseg.structures import SegDataSample
    sample = SegDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width)))
    sample.gt_sem_seg = PixelData(data=torch.randint(0, 19, (1, height, width)))
    return sample


def training_data(model, cfg):
    """A batch as the model's own preprocessor makes it."""
    if cfg.default_scope == 'mmdet':
        shape = (96, 64)
        image = torch.randint(0, 255, (3, *shape), dtype=torch.uint8)
        data = model.data_preprocessor(dict(inputs=[image], data_samples=[detection_sample(*shape)]), training=True)
        assert data['inputs'].shape[2:] == shape
        return data
    shape, crop = (64, 96), cfg.data_preprocessor.size
    data = model.data_preprocessor(
        dict(inputs=[torch.randint(0, 255, (3, *shape), dtype=torch.uint8) for _ in range(2)],
             data_samples=[segmentation_sample(*shape) for _ in range(2)]),
        training=True)
    assert data['inputs'].shape[2:] == crop
    # Whole crops would take minutes: what was padded is cut off again.
    data['inputs'] = data['inputs'][..., :shape[0], :shape[1]].contiguous()
    for sample in data['data_samples']:
        labels = sample.gt_sem_seg.data
        assert labels.shape[1:] == crop and bool((labels[:, shape[0]:] == 255).all())
        sample.gt_sem_seg = PixelData(data=labels[:, :shape[0], :shape[1]])
    return data


def check_optimizer(model, cfg, monkeypatch):
    """The wrapper is built from the config as tools/train.py does without a GPU; rates rise with depth."""
    monkeypatch.setattr(launch, 'has_accelerator', lambda: False)
    monkeypatch.setattr(launch, 'check_data', lambda *args: None)  # COCO and the others aren't here
    fitted = copy.deepcopy(cfg)
    notes = launch.prepare_config(fitted, cfg.filename)
    assert any('AmpOptimWrapper' in note for note in notes)
    assert {path.split('.')[-1] for path in differences(cfg.optim_wrapper.to_dict(), fitted.optim_wrapper.to_dict())} \
        == {'type', 'loss_scale', 'dtype'}
    wrapper = build_optim_wrapper(model, fitted.optim_wrapper)
    assert type(wrapper).__name__ == 'OptimWrapper'
    assert isinstance(wrapper.optimizer, torch.optim.AdamW)
    groups = {id(param): group for group in wrapper.optimizer.param_groups for param in group['params']}
    names = dict(model.named_parameters())
    assert len(groups) == len(names)
    rates = {}
    for name, param in names.items():
        if name.startswith(('backbone.stem.', 'backbone.position_proj.')):
            depth = 0
        elif name.startswith('backbone.blocks.'):
            depth = int(name.split('.')[2]) + 1
        else:  # norms of the outputs, neck and heads
            depth = DEPTH + 1
        group = groups[id(param)]
        assert group['lr'] == pytest.approx(1e-4 * 0.8**(DEPTH + 1 - depth)), name
        assert group['weight_decay'] == (0.05 if param.ndim > 1 else 0), name
        rates[depth] = group['lr']
    ordered = [rates[depth] for depth in range(DEPTH + 2)]
    assert ordered == sorted(set(ordered)) and ordered[-1] == 1e-4


def check_prediction(model, cfg):
    if cfg.default_scope == 'mmseg':
        shape = (58, 90)  # padded to 64 x 96, and cut back
        out, = model.test_step(dict(
            inputs=[torch.randint(0, 255, (3, *shape), dtype=torch.uint8)], data_samples=[segmentation_sample(*shape)]))
        classes = cfg.model.decode_head.num_classes
        assert out.seg_logits.shape == shape and out.seg_logits.data.shape[0] == classes
        assert out.pred_sem_seg.shape == shape
        assert out.seg_logits.data.isfinite().all()
        assert 0 <= int(out.pred_sem_seg.data.min()) and int(out.pred_sem_seg.data.max()) < classes
        return
    shape = (90, 58)
    with torch.no_grad():  # an untrained head says background; let it name a class
        if hasattr(model, 'roi_head'):
            for head in (model.roi_head.bbox_head if 'Cascade' in cfg.model.type else [model.roi_head.bbox_head]):
                head.fc_cls.bias[5] = 8.
        else:
            model.bbox_head.retina_cls.bias.zero_()
    out, = model.test_step(dict(
        inputs=[torch.randint(0, 255, (3, *shape), dtype=torch.uint8)], data_samples=[detection_sample(*shape)]))
    found = out.pred_instances
    assert 0 < len(found) <= 100
    assert found.bboxes.isfinite().all() and found.scores.isfinite().all()
    assert bool((found.bboxes >= 0).all()) and bool((found.bboxes <= torch.tensor([58, 90, 58, 90])).all())
    assert int(found.labels.max()) < 80
    if hasattr(model, 'roi_head'):
        assert found.masks.shape == (len(found), *shape)
        assert set(found.labels.tolist()) == {5}


@pytest.mark.parametrize('name', NAMES)
def test_small_backbone_changes_nothing_else(name, checkpoint):
    """And then a size variant differs from its tiny sibling in drop path alone, so that one step serves both."""
    cfg, sibling = shrink(name, checkpoint), re.sub('pervit-(small|medium)_', 'pervit-tiny_', name)
    expected = set() if name in (sibling, GLOBAL) else {'model.backbone.drop_path_rate'}
    assert differences(shrink(sibling, checkpoint).to_dict(), cfg.to_dict()) == expected


@pytest.mark.parametrize('name', [*TINY, GLOBAL])
def test_one_step(name, scope, checkpoint, monkeypatch):
    cfg = shrink(name, checkpoint)
    model = import_module(f'{cfg.default_scope}.registry').MODELS.build(cfg.model)
    model.init_weights()
    saved, backbone = torch.load(checkpoint)['state_dict'], model.backbone.state_dict()
    own_norms = {key for i in model.backbone.out_indices[:-1] for key in (f'norm{i}.weight', f'norm{i}.bias')}
    assert backbone.keys() - own_norms == {key.removeprefix('backbone.') for key in saved if key.startswith('backbone')}
    for key in backbone.keys() - own_norms:
        torch.testing.assert_close(backbone[key], saved[f'backbone.{key}'], msg=naming(key))

    check_optimizer(model, cfg, monkeypatch)

    model = revert_sync_batchnorm(model)
    model.train()
    running_mean = model.backbone.stem.layers[0].norm.running_mean.clone()
    losses = model(**training_data(model, cfg), mode='loss')
    loss, scalars = model.parse_losses(losses)
    assert all(value.isfinite() for value in scalars.values()), scalars
    loss.backward()
    missing = [key for key, param in model.named_parameters() if param.requires_grad and param.grad is None]
    assert not missing, 'and so DistributedDataParallel needs no search for unused parameters'
    broken = [key for key, param in model.named_parameters() if param.requires_grad and not param.grad.isfinite().all()]
    assert not broken
    assert not [key for key, param in model.named_parameters() if not param.requires_grad]
    for part in ('stem.layers.0.conv', 'blocks.0.attn.position.conv2', 'blocks.3.ffn.fc2'):
        assert float(model.backbone.get_submodule(part).weight.grad.abs().max()) > 0, part
    kept = torch.equal(model.backbone.stem.layers[0].norm.running_mean, running_mean)
    assert kept is (cfg.default_scope == 'mmdet'), 'BatchNorm keeps its statistics in detection alone'

    model.eval()
    with torch.no_grad():
        check_prediction(model, cfg)
