"""tools/train.py with a real detector and a real segmentor: train, resume, and what the logs and checkpoints say."""
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import naming

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / 'tools' / 'train.py'
IMAGES, BATCH = 6, 2
CLASSES = ('light', 'dark')

# A hook that the configs import. It records the weights that the run starts from, and each raw loss with its iteration
# and epoch.
RECORDER = '''
import json

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class ToolboxRecorder(Hook):

    def before_train(self, runner):
        torch.save(runner.model.state_dict(), f'{runner.work_dir}/start.pth')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with open(f'{runner.work_dir}/record.jsonl', 'a') as file:
            losses = {key: float(value) for key, value in outputs.items() if 'loss' in key}
            file.write(json.dumps([runner.iter, runner.epoch, losses]) + '\\n')
'''

# With stochastic depth and random flips, a resumed run repeats the losses only if its random state is restored.
COMMON = '''
custom_imports = dict(imports=['pervit_mm', 'toolbox_recorder'], allow_failed_imports=False)
custom_hooks = [dict(type='PerViTRandomStateHook'), dict(type='ToolboxRecorder')]
backbone = dict(
    arch=dict(embed_dims=(16, 24), depths=(2, 1), num_heads=2, stem_channels=(8, )),
    img_size=32, out_type='featmap', out_indices=(2, ), drop_path_rate=0.5)
pixels = dict(mean=[127.] * 3, std=[64.] * 3, bgr_to_rgb=True)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3))
randomness = dict(seed=5)
val_cfg = dict()
'''

DETECTOR = COMMON + '''
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=8, **pixels),
    backbone=dict(type='pervit_mm.PerViT', **backbone),
    neck=dict(type='ChannelMapper', in_channels=[24], out_channels=8, kernel_size=1, num_outs=1),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[4]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0., nms=dict(type='nms', iou_threshold=0.5), max_per_img=5))
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(64, 64), keep_ratio=True)]
data = dict(
    type='CocoDataset', data_root={data!r}, ann_file='boxes.json', data_prefix=dict(img='images'),
    metainfo=dict(classes=('light', 'dark')))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(**data, pipeline=load + [dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]))
val_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**data, test_mode=True, pipeline=load + [dict(
        type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
val_evaluator = dict(type='CocoMetric', ann_file={data!r} + '/boxes.json')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
'''

SEGMENTOR = COMMON + '''
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(48, 48), **pixels),
    backbone=dict(type='PerViT', **backbone),
    decode_head=dict(
        type='FCNHead', in_channels=24, in_index=0, channels=8, num_convs=1, concat_input=False, num_classes=2,
        norm_cfg=dict(type='BN'), align_corners=False),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
data = dict(
    type='BaseSegDataset', data_root={data!r}, img_suffix='.png', seg_map_suffix='.png',
    data_prefix=dict(img_path='images', seg_map_path='labels'),
    metainfo=dict(classes=('ground', 'shape'), palette=[[0, 0, 0], [255, 255, 255]]))
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(**data, pipeline=load + [
        dict(type='RandomCrop', crop_size=(48, 48)), dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')]))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**data, pipeline=load + [dict(type='PackSegInputs')]))
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
train_cfg = dict(type='IterBasedTrainLoop', max_iters=6, val_interval=3)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3))
'''


def make_data(root):
    """Images of 64 x 64 and 64 x 48 with a light and a dark rectangle, boxes as COCO JSON, and masks as label maps."""
    for name in ('images', 'labels'):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for i in range(IMAGES):
        height, width = 64, (64, 48)[i % 2]
        picture = rng.integers(100, 150, (height, width, 3), dtype=np.uint8)
        labels = np.zeros((height, width), np.uint8)
        images.append(dict(id=i, file_name=f'{i}.png', height=height, width=width))
        for category, value in enumerate((240, 10)):
            w, h = (int(n) for n in rng.integers(14, 20, 2))
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, 12)) + 32 * category
            picture[y:y + h, x:x + w] = value
            labels[y:y + h, x:x + w] = 1
            boxes.append(dict(id=len(boxes) + 1, image_id=i, category_id=category + 1, bbox=[x, y, w, h],
                              area=w * h, iscrowd=0))
        cv2.imwrite(str(root / 'images' / f'{i}.png'), picture)
        cv2.imwrite(str(root / 'labels' / f'{i}.png'), labels)
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    (root / 'boxes.json').write_text(json.dumps(dict(images=images, annotations=boxes, categories=categories)))


def start(world, *args):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': f'{ROOT}{os.pathsep}{world}'}
    return subprocess.Popen([sys.executable, str(TRAIN), *map(str, args)], env=env, cwd=world, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out[-4000:]
    return out


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Folder and outputs of two runs of each toolbox: an undisturbed run, and one that resumes from its middle."""
    world = tmp_path_factory.mktemp('toolboxes')
    make_data(world / 'data')
    (world / 'toolbox_recorder.py').write_text(RECORDER)
    for name, text in (('detector', DETECTOR), ('segmentor', SEGMENTOR)):
        (world / f'{name}.py').write_text(text.replace('{data!r}', repr(str(world / 'data'))))
    whole = [start(world, f'{name}.py', '--work-dir', f'{name}/whole') for name in ('detector', 'segmentor')]
    outputs = dict(zip(('detector/whole', 'segmentor/whole'), map(finish, whole)))
    # The detector's command names the checkpoint. The segmentor's finds the latest one of its folder.
    folder = world / 'segmentor' / 'resumed'
    folder.mkdir()
    shutil.copy(world / 'segmentor' / 'whole' / 'iter_3.pth', folder)
    (folder / 'last_checkpoint').write_text(str(folder / 'iter_3.pth'))
    resumed = [
        start(world, 'detector.py', '--work-dir', 'detector/resumed', '--resume', 'detector/whole/epoch_1.pth'),
        start(world, 'segmentor.py', '--work-dir', 'segmentor/resumed', '--resume')]
    outputs.update(zip(('detector/resumed', 'segmentor/resumed'), map(finish, resumed)))
    return world, outputs


def record(folder):
    return [json.loads(line) for line in (folder / 'record.jsonl').read_text().splitlines()]


def steps(checkpoint):
    """Number of optimizer steps, for each parameter that got a gradient."""
    return [int(state['step']) for state in checkpoint['optimizer']['state'].values()]


def check_resume(folder, middle, last, keys):
    """The resumed run starts with the saved weights and repeats the undisturbed run."""
    saved, whole, resumed = (torch.load(path) for path in (
        folder / 'whole' / middle, folder / 'whole' / last, folder / 'resumed' / last))
    fresh, begun = (torch.load(folder / name / 'start.pth') for name in ('whole', 'resumed'))
    assert begun.keys() == saved['state_dict'].keys()
    assert all(torch.equal(begun[key], value) for key, value in saved['state_dict'].items())

    backbone = [key for key in begun if key.startswith('backbone.') and begun[key].is_floating_point()]
    for first, second in ((fresh, begun), (begun, resumed['state_dict'])):
        changed = [key for key in backbone if not torch.equal(first[key], second[key])]
        for part in ('stem', 'position_proj', 'blocks.0.attn.position', 'blocks.2.attn.qkv', 'norm2'):
            assert any(key.startswith(f'backbone.{part}') for key in changed), part
    for key, value in whole['state_dict'].items():
        torch.testing.assert_close(resumed['state_dict'][key], value, msg=naming(key))

    # Every parameter was trained in every iteration, and the resumed run goes on counting its steps.
    half = IMAGES // BATCH
    count = sum(len(group['params']) for group in saved['optimizer']['param_groups'])
    assert steps(saved) == [half] * count
    assert steps(resumed) == [2 * half] * count
    assert saved['meta']['iter'] == half and resumed['meta']['iter'] == 2 * half

    there, here = record(folder / 'whole'), record(folder / 'resumed')
    assert [i for i, _, _ in there] == list(range(2 * half))
    assert [i for i, _, _ in here] == list(range(half, 2 * half))
    for _, _, losses in there:
        assert losses.keys() == keys
        assert all(math.isfinite(value) and value > 0 for value in losses.values()), losses
    for (i, epoch, ours), (_, same_epoch, theirs) in zip(here, there[half:]):
        assert epoch == same_epoch
        assert ours == pytest.approx(theirs, rel=1e-5), f'iteration {i}'
    return saved, resumed


def test_a_detector_trains_and_resumes(runs):
    """RetinaNet by epochs, as ``type='pervit_mm.PerViT'``."""
    world, outputs = runs
    saved, resumed = check_resume(world / 'detector', 'epoch_1.pth', 'epoch_2.pth', {'loss', 'loss_cls', 'loss_bbox'})
    assert (saved['meta']['epoch'], resumed['meta']['epoch']) == (1, 2)
    assert [epoch for _, epoch, _ in record(world / 'detector' / 'resumed')] == [1, 1, 1]
    for name, epochs in (('whole', '111222'), ('resumed', '222')):
        out = outputs[f'detector/{name}']
        assert ''.join(re.findall(r'Epoch\(train\) +\[(\d)\]\[\d/3\]', out)) == epochs
        mean_precision = float(re.search(r'^coco/bbox_mAP: (\S+)$', out, re.M)[1])
        assert 0 <= mean_precision <= 1
        assert re.search(rf'^checkpoint: detector/{name}/epoch_2\.pth$', out, re.M)
    assert 'detector/whole/epoch_1.pth' in outputs['detector/resumed']


def test_a_segmentor_trains_and_resumes(runs):
    """EncoderDecoder by iterations, as ``type='PerViT'``."""
    world, outputs = runs
    check_resume(world / 'segmentor', 'iter_3.pth', 'iter_6.pth', {'loss', 'decode.loss_ce'})
    for name, numbers in (('whole', '123456'), ('resumed', '456')):
        out = outputs[f'segmentor/{name}']
        assert ''.join(re.findall(r'Iter\(train\) +\[(\d)/6\]', out)) == numbers
        assert 0 < float(re.search(r'^mIoU: (\S+)$', out, re.M)[1]) <= 100
        assert re.search(rf'^checkpoint: segmentor/{name}/iter_6\.pth$', out, re.M)
