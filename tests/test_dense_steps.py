"""A training step of each config of configs/detection and configs/segmentation, with a tiny backbone.

``shrink`` says what it changes in a config. A recursive comparison makes sure that nothing else is changed.
"""
import copy
import re
from importlib import import_module

import numpy as np
import pytest
import torch
from conftest import naming
from dense_configs import GLOBAL, NAMES, differences, read
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData, PixelData

from pervit_mm.engine import launch, machine
from pervit_mm.models import PerViT

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

# Four stages of one block each, stride 16: block i gives 24, 32, 40, 40 channels.
ARCH = dict(embed_dims=(16, 24, 32, 40), depths=(1, 1, 1, 1), num_heads=2, stem_channels=(8, 8, 8))
WIDTHS = (24, 32, 40, 40)
DEPTH = 4


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """The file that an ImageNet training of the tiny backbone would write: {'state_dict': {'backbone.…', 'head.…'}}."""
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

    It changes ``arch``, the path of the checkpoint, and the settings that follow from the widths and the four blocks.
    The rest is the config's own.
    """
    original = read(name)
    cfg = copy.deepcopy(original)
    backbone, neck = cfg.model.backbone, cfg.model.neck
    backbone.arch = ARCH
    backbone.init_cfg.checkpoint = str(checkpoint)
    expected = {'model.backbone.arch', 'model.backbone.init_cfg.checkpoint'}
    if 'out_indices' in backbone:  # the last block of each stage; the small backbone has no blocks 9 and 11
        backbone.out_indices, neck.in_channels = tuple(range(DEPTH)), WIDTHS
        expected |= {f'model.{key}.{i}' for key in ('backbone.out_indices', 'neck.in_channels') for i in range(4)}
    else:
        neck.in_channels = WIDTHS[-1]
        expected |= {'model.neck.in_channels'}
    if 'global_attn_indexes' in backbone:  # instead of (2, 5, 8, 11): windowed and global blocks take turns
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
    """A batch made by the model's own preprocessor."""
    if cfg.default_scope == 'mmdet':
        shape = (352, 256)
        image = torch.randint(0, 255, (3, *shape), dtype=torch.uint8)
        data = model.data_preprocessor(dict(inputs=[image], data_samples=[detection_sample(*shape)]), training=True)
        assert data['inputs'].shape[2:] == shape
        return data
    shape, crop = (256, 352), cfg.data_preprocessor.size
    data = model.data_preprocessor(
        dict(inputs=[torch.randint(0, 255, (3, *shape), dtype=torch.uint8) for _ in range(2)],
             data_samples=[segmentation_sample(*shape) for _ in range(2)]),
        training=True)
    assert data['inputs'].shape[2:] == crop
    # Whole crops would take minutes, so the padding is cut off again.
    data['inputs'] = data['inputs'][..., :shape[0], :shape[1]].contiguous()
    for sample in data['data_samples']:
        labels = sample.gt_sem_seg.data
        assert labels.shape[1:] == crop and bool((labels[:, shape[0]:] == 255).all())
        sample.gt_sem_seg = PixelData(data=labels[:, :shape[0], :shape[1]])
    return data


def check_optimizer(model, cfg, monkeypatch):
    """The optimizer wrapper is built from the config as in tools/train.py without a GPU. Rates rise with depth."""
    monkeypatch.setattr(machine, 'has_accelerator', lambda: False)
    monkeypatch.setattr(launch, 'check_data', lambda *args: None)  # the data sets are not on this machine
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
    with torch.no_grad():  # an untrained head finds only background, so make it find a class
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
    """With the small backbone, a config of another size differs from that of tiny only in its drop path rate."""
    cfg, sibling = shrink(name, checkpoint), re.sub('pervit-(small|medium)_', 'pervit-tiny_', name)
    expected = set() if name in (sibling, GLOBAL) else {'model.backbone.drop_path_rate'}
    assert differences(shrink(sibling, checkpoint).to_dict(), cfg.to_dict()) == expected


@pytest.mark.parametrize('name', NAMES)
def test_a_step_trains_every_parameter_and_a_prediction_is_valid(name, scope, checkpoint, monkeypatch):
    """Loss, backward and prediction of every config. All sizes are tested, because they differ in drop path rate."""
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
    seen = []
    for block in model.backbone.blocks:
        block.attn.register_forward_pre_hook(lambda module, args: seen.append((args[1], args[3])))
    data = training_data(model, cfg)
    torch.manual_seed(1)  # drop path of up to 0.4 keeps every block for some image
    losses = model(**data, mode='loss')
    # Windows of the 14 x 14 pretraining grid cut a map of 16 x 22, or 22 x 16, tokens into four.
    assert {tuple(sorted(grid)) for grid, _ in seen} == {(16, 22)}
    windows = [(14, 14), None, (14, 14), None] if name == GLOBAL else [(14, 14)] * DEPTH
    assert [window for _, window in seen] == windows
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
