"""A checkpoint knows how images were prepared for it, and a run under another preparation says so."""
import pytest
import torch
from classifier_run import RandomImages  # noqa: F401  registers it
from conftest import TINY_ARCH
from mmengine.config import Config

from pervit_mm.apis.configs import load_config
from pervit_mm.apis.inputs import inputs_of, recorded_inputs, tell_difference
from pervit_mm.checkpoints import package_root, published_files
from pervit_mm.engine import PerViTRunner

GRAY = dict(mean=[72.94], std=[90.02], to_rgb=False, size=[28, 28])


def test_inputs_of_configs():
    configs = package_root() / 'configs'
    assert inputs_of(load_config(configs / 'pervit_nano_fashion-mnist.py')) == GRAY
    assert inputs_of(load_config(configs / 'pervit_tiny.py')) == dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True, size=[224, 224])
    assert inputs_of(Config({})) == {}


def test_a_published_file_without_a_record_has_that_of_its_config():
    name = next(name for name in published_files() if name.startswith('pervit_nano_fashion-mnist_'))
    for path in (f'pervit_mm://{name}', f'/somewhere/{name}'):
        assert recorded_inputs(path, {'meta': {}}) == GRAY
    assert recorded_inputs('mine.pth', {'meta': {}}) is recorded_inputs('mine.pth', {}) is None


@pytest.mark.parametrize('given, words', [
    ({}, None), (dict(mean=[72.94] * 3, std=[90.02] * 3), None), (dict(mean=[72.94, 72.94]), None),
    (dict(mean=[0.]), 'trained with mean=[72.94], and this config has mean=[0.0]'),
    (dict(std=None), 'trained with std=[90.02], and this config has std=none'),
    (dict(size=[56, 64]), 'trained with images of 28 x 28 px, and this config has images of 56 x 64 px'),
    (dict(size=None), None)])
def test_differences(given, words):
    told = tell_difference('a.pth', GRAY, {**GRAY, **given})
    assert told is None if words is None else words in told


def make(work_dir, mean, **more):
    cfg = Config(dict(
        model=dict(
            type='ImageClassifier', data_preprocessor=dict(mean=[mean] * 3, std=[90.] * 3),
            backbone=dict(type='PerViT', arch=TINY_ARCH, img_size=28, **more),
            head=dict(type='LinearClsHead', num_classes=2, in_channels=24, topk=(1, ))),
        train_dataloader=dict(
            batch_size=4, num_workers=0, dataset=dict(type='RandomImages'), collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=1), optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        default_scope='mmpretrain', work_dir=str(work_dir), experiment_name=f'{work_dir.name}_{mean}_{len(more)}'))
    return PerViTRunner.from_cfg(cfg)


def test_a_run_records_and_compares(tmp_path):
    make(tmp_path / 'first', 70.).train()
    path = str(tmp_path / 'first' / 'epoch_1.pth')
    assert torch.load(path, weights_only=True)['meta']['inputs'] == dict(
        mean=[70.] * 3, std=[90.] * 3, to_rgb=False, size=[28, 28])

    def warnings(mean, **more):
        run, lines = make(tmp_path / 'second', mean, **more), []
        run.logger.warning = lines.append
        if more:
            run.train()
        else:
            run.load_checkpoint(path)
        return [line for line in lines if 'was trained with' in line]

    assert warnings(70.) == []
    words = 'mean=[70.0, 70.0, 70.0], and this config has mean=[10.0, 10.0, 10.0]'
    by_load, = warnings(10.)
    by_init, = warnings(10., init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'))
    assert words in by_load and words in by_init
