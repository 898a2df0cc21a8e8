"""The configs for own images in docs/dense_tasks.md, as they are written there, on a small generated folder."""
import json
from pathlib import Path

import cv2
import pytest
import torch
from made_items import make_fashion_mnist
from mmengine.registry import DefaultScope
from page_configs import make_clone, page_configs, write_tiny

from pervit_mm.apis.configs import load_config
from pervit_mm.datasets import FASHION_CLASSES, prepare_fashion_scenes
from pervit_mm.engine import launch

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

CONFIGS = page_configs('dense_tasks.md')
#: A run on one image, without processes that load it. Nothing of the model is changed.
QUICK = {f'{name}_dataloader.{key}': value for name in ('train', 'val')
         for key, value in (('num_workers', 0), ('persistent_workers', False), ('dataset.indices', 1))}


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """A folder like the top of a clone, with the configs, drawn scenes, and weights where the configs look for them."""
    folder = tmp_path_factory.mktemp('clone')
    make_clone(folder, CONFIGS)
    files = make_fashion_mnist(folder / 'items')
    prepare_fashion_scenes(folder / 'data' / 'own', folder / 'items', 4, 2, 0, files, log=lambda sentence: None, val=0)
    write_tiny(folder / 'pervit_tiny.pth')
    return folder


@pytest.fixture(params=CONFIGS)
def runner(request, clone, monkeypatch):
    """A runner for one iteration and a validation, prepared as tools/train.py does it."""
    monkeypatch.chdir(clone)
    cfg = load_config(request.param, QUICK)
    if 'nano' not in request.param:  # the pipelines enlarge the scenes as photographs, which would take minutes
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            for step in loader.dataset.pipeline:
                step.update({key: (128, 128) for key in ('scale', 'crop_size') if key in step})
    cfg.train_dataloader.batch_size = 1
    if cfg.default_scope == 'mmdet':
        cfg.train_cfg.max_epochs = 1
    else:
        cfg.model.data_preprocessor.size = (128, 128)
        cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = 1
    cfg.log_level = 'ERROR'
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        launch.prepare_config(cfg, request.param)
        yield launch.build_runner(cfg)


def test_the_page_has_all_four():
    assert list(CONFIGS) == ['my_detector.py', 'my_nano_detector.py', 'my_segmentor.py', 'my_nano_segmentor.py']


def test_a_documented_config_trains_and_validates(runner):
    """Weights are taken, labels are those of the files, strides are those of the maps, every part learns."""
    model, size = runner.model, runner.cfg.model.backbone.arch
    saved = torch.load('pervit_tiny.pth')['state_dict'] if size == 'tiny' else None
    runner._init_model_weights()
    if saved:
        own = model.backbone.state_dict()
        assert all(torch.equal(own[key.removeprefix('backbone.')], value) for key, value in saved.items())
    check_strides(model)
    before = {key: value.clone() for key, value in model.named_parameters()}
    runner.train()
    changed = [key for key, value in model.named_parameters() if not torch.equal(before[key], value)]
    assert 'backbone.stem.layers.0.conv.weight' in changed
    assert {key.split('.')[0] for key in changed} == {key.split('.')[0] for key in before}
    hub = runner.message_hub
    assert hub.get_scalar('train/loss').current() > 0
    dataset = runner.train_dataloader.dataset
    if runner.cfg.default_scope == 'mmdet':
        check_boxes(dataset)
    else:
        check_masks(dataset)
        assert 0 <= hub.get_scalar('val/mIoU').current() <= 100


def check_strides(model):
    """Anchors and boxes are laid on maps as large as the network makes them."""
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        strides = [64 // level.shape[-1] for level in model.eval().extract_feat(image)]
    if hasattr(model, 'rpn_head'):
        assert [stride[0] for stride in model.rpn_head.prior_generator.strides] == strides
        cut = model.roi_head.bbox_roi_extractor.featmap_strides
        assert cut == strides[:len(cut)]
    else:
        assert model.decode_head.feature_strides == strides


def check_boxes(dataset):
    content = json.loads(Path('data/own/annotations/train.json').read_text())
    assert dataset.metainfo['classes'] == FASHION_CLASSES
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        theirs = [box for box in content['annotations'] if box['image_id'] == info['img_id']]
        assert [instance['bbox_label'] + 1 for instance in info['instances']] == [box['category_id'] for box in theirs]
        for instance, (x, y, width, height) in zip(info['instances'], (box['bbox'] for box in theirs)):
            assert instance['bbox'] == [x, y, x + width, y + height]


def check_masks(dataset):
    assert dataset.metainfo['classes'][1:] == FASHION_CLASSES
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        mask = cv2.imread(info['seg_map_path'], cv2.IMREAD_UNCHANGED)
        labels = dataset[index]['data_samples'].gt_sem_seg.data
        assert set(labels.unique().tolist()) - {255} <= set(mask.ravel().tolist()), 'no label is shifted by one'
        assert 0 in labels
