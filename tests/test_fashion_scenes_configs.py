"""configs/*/*_fashion-scenes.py: what the control configs change, and a few training steps of each."""
import copy
from importlib import import_module

import numpy as np
import pytest
import torch
from dense_configs import CONFIGS, differences, read
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData, PixelData

from pervit_mm.apis.named_models import models_by_name
from pervit_mm.datasets import FASHION_CLASSES
from pervit_mm.models import PerViT
from pervit_mm.models.pretrained import load_pretrained

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

MAIN = dict(detection='mask-rcnn_pervit-nano_fashion-scenes', segmentation='pervit-nano_fpn_fashion-scenes')
CONTROLS = [(folder, path.stem) for folder in MAIN for path in sorted((CONFIGS / folder).glob('*fashion-scenes.py'))
            if path.stem != MAIN[folder]]
LARGE, LARGE_GLOBAL = (f'segmentation/pervit-nano_{name}_fashion-scenes-320' for name in ('fpn', 'global2_fpn'))


@pytest.mark.parametrize('folder, name', CONTROLS)
def test_controls_change_what_they_say(folder, name):
    changed = differences(read(f'{folder}/{MAIN[folder]}').to_dict(), read(f'{folder}/{name}').to_dict())
    if 'scratch' in name:
        assert changed == {'model.backbone.init_cfg'}
    elif 'sit-pre' in name:
        init = read(f'{folder}/{name}').model.backbone.init_cfg
        assert changed == {'checkpoint', 'model.backbone.init_cfg.checkpoint', 'model.backbone.init_cfg.prefix'}
        assert init.checkpoint == models_by_name()['sit_pervit-nano_1xb128-coslr-3e_fashion-mnist'][1]
        load_pretrained(PerViT('nano', img_size=28, in_channels=3), init.checkpoint, init.prefix)  # raises if none fits
    elif 'global' in name:
        assert changed == {'model.backbone.window_size', 'model.backbone.position_cache_bytes'}
    elif 'long' in name:
        cfg = read(f'{folder}/{name}')
        assert changed == {
            'max_iters', 'train_cfg.max_iters', 'train_cfg.val_interval', 'param_scheduler.1.end',
            'auto_scale_lr.base_batch_size'}
        assert cfg.param_scheduler[1].end == cfg.train_cfg.max_iters == cfg.train_cfg.val_interval == cfg.max_iters
        assert cfg.auto_scale_lr.base_batch_size == cfg.train_dataloader.batch_size, 'one process'
    else:
        assert {key.split('.')[1] for key in changed - {'checkpoint'}} == {'backbone', 'neck'}
        assert 'init_cfg' not in read(f'{folder}/{name}').model.backbone, 'from scratch'


@pytest.mark.parametrize('folder', MAIN)
def test_data_schedule_and_checkpoint_agree(folder):
    cfg = read(f'{folder}/{MAIN[folder]}')
    ground = () if folder == 'detection' else ('background', )
    assert cfg.train_dataloader.dataset.metainfo['classes'][len(ground):] == FASHION_CLASSES
    assert len(cfg.train_dataloader.dataset.metainfo['classes']) == len(FASHION_CLASSES) + len(ground)
    assert cfg.param_scheduler[1].end == cfg.train_cfg.max_iters == cfg.train_cfg.val_interval
    assert cfg.checkpoint == cfg.model.backbone.init_cfg.checkpoint
    assert cfg.default_hooks.visualization.type, 'the test.py of the toolbox draws by it'
    assert cfg.checkpoint == models_by_name()['pervit_nano_fashion-mnist'][1]


def test_larger_scenes_are_cut_into_larger_crops():
    main, large = read(f'segmentation/{MAIN["segmentation"]}'), read(LARGE)
    changed = differences(main.to_dict(), large.to_dict())
    assert changed == {
        'data_root', 'crop_size.0', 'crop_size.1', 'model.data_preprocessor.size.0', 'model.data_preprocessor.size.1',
        'train_dataloader.batch_size', 'auto_scale_lr.base_batch_size',
        'train_dataloader.dataset.pipeline.3.crop_size.0', 'train_dataloader.dataset.pipeline.3.crop_size.1',
        *(f'{split}_dataloader.dataset.data_root' for split in ('train', 'val', 'test'))}
    crops = [dict(step) for step in large.train_dataloader.dataset.pipeline if step['type'] == 'RandomCrop']
    assert crops == [dict(type='RandomCrop', crop_size=large.crop_size)]
    assert tuple(large.model.data_preprocessor.size) == tuple(large.crop_size) == (192, 192)
    assert {large[f'{split}_dataloader'].dataset.data_root for split in ('train', 'val', 'test')} == {large.data_root}
    assert differences(large.to_dict(), read(LARGE_GLOBAL).to_dict()) == {'model.backbone.global_attn_indexes'}


def batch(folder):
    """Two images, each with a Bag and a Coat.

    For a segmentor they are as large as a crop. With class weights it has no label for padding.
    """
    shape, samples = (128, 128) if folder == 'segmentation' else (96, 64), []
    for _ in range(2):
        labels = torch.zeros(1, *shape, dtype=torch.long)
        labels[:, 10:40, 5:40], labels[:, 50:90, 20:60] = 9, 5
        if folder == 'segmentation':
            from mmseg.structures import SegDataSample
            sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape))
            sample.gt_sem_seg = PixelData(data=labels)
        else:
            from mmdet.structures import DetDataSample
            from mmdet.structures.mask import BitmapMasks
            sample = DetDataSample(metainfo=dict(img_id=0, img_shape=shape, ori_shape=shape, scale_factor=(1., 1.)))
            masks = np.concatenate([labels.numpy() == 9, labels.numpy() == 5]).astype(np.uint8)
            sample.gt_instances = InstanceData(
                bboxes=torch.tensor([[5., 10., 40., 40.], [20., 50., 60., 90.]]), labels=torch.tensor([8, 4]),
                masks=BitmapMasks(masks, *shape))
        samples.append(sample)
    return dict(inputs=[torch.randint(0, 256, (3, *shape), dtype=torch.uint8) for _ in range(2)], data_samples=samples)


@pytest.mark.parametrize('folder, name', [*MAIN.items(), *CONTROLS])
def test_loss_falls(folder, name, tmp_path):
    """Within a few steps on one batch, from the weights of a classifier of gray images."""
    cfg = copy.deepcopy(read(f'{folder}/{name}'))
    if cfg.model.backbone.get('init_cfg'):
        source = PerViT('nano', img_size=28, in_channels=1)
        source.init_weights()
        prefix = cfg.model.backbone.init_cfg.prefix
        torch.save(dict(state_dict={f'{prefix}{k}': v for k, v in source.state_dict().items()}), tmp_path / 'a.pth')
        cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'a.pth')
    from mmengine.registry import DefaultScope
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = import_module(f'{cfg.default_scope}.registry').MODELS.build(cfg.model)
        model.init_weights()
        if cfg.model.backbone.get('init_cfg'):
            weight = source.stem.layers[0].conv.weight
            torch.testing.assert_close(model.backbone.stem.layers[0].conv.weight, weight.expand(-1, 3, -1, -1) / 3)
        model.train()
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        data, losses = batch(folder), []
        for _ in range(6):
            inputs = model.data_preprocessor(copy.deepcopy(data), training=True)
            if folder == 'segmentation':
                assert inputs['inputs'].shape[2:] == (128, 128)
            with wrapper.optim_context(model):
                loss, _ = model.parse_losses(model(**inputs, mode='loss'))
            wrapper.zero_grad()
            wrapper.backward(loss)
            assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
            wrapper.step()
            losses.append(loss.item())
        assert min(losses[3:]) < 0.8 * losses[0], losses
        model.eval()
        out = model.test_step(copy.deepcopy(data))
    if folder == 'segmentation':
        assert out[0].pred_sem_seg.shape == (128, 128) and int(out[0].pred_sem_seg.data.max()) <= 10
    else:
        assert all(len(sample.pred_instances.labels) <= 30 for sample in out)
