"""Scores that need no labels, on configs and checkpoints, against the functions on tensors made by hand."""
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.registry import MODELS, DefaultScope
from small_classifiers import SIDE, write_images, write_model

from pervit_mm.apis.configs import load_config
from pervit_mm.apis.labeled_sets import build_loader, build_sets, mixed
from pervit_mm.apis.pretraining_scores import score_region_matching
from pervit_mm.apis.scored_backbones import classifier_with_backbone, random_classifier
from pervit_mm.evaluation import recalibrate, region_matching_accuracy
from pervit_mm.selfsup.hidden_pixels import hidden_pixel_error

mmpretrain = pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')
ROOT = Path(__file__).parents[2]
MASKS = dict(type='SimMIMMaskGenerator', input_size=SIDE, mask_patch_size=4, model_patch_size=4, mask_ratio=0.6)
PRETRAINING = f'''
custom_imports = dict(imports=['pervit_mm', 'pervit_mm.selfsup'], allow_failed_imports=False)
default_scope = 'mmpretrain'
data_preprocessor = dict(
    type='SelfSupDataPreprocessor', mean=[100., 110., 120.], std=[50., 60., 70.], to_rgb=True)
model = dict(
    type='SimMIM',
    backbone=dict(type='MaskTokenPerViT', arch={TINY_ARCH}, img_size={SIDE}, out_type='featmap'),
    neck=dict(type='PixelShuffleDecoder', in_channels=24, encoder_stride=4),
    head=dict(type='SimMIMHead', patch_size=4, loss=dict(type='PixelReconstructionLoss', criterion='L1', channel=3)))
train_dataloader = dict(dataset=dict(type='CustomDataset', pipeline=[{MASKS}]))
'''


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Config of a classifier, config of a SimMIM on the same images, and its checkpoint."""
    folder = tmp_path_factory.mktemp('world')
    write_images(folder / 'data', 9)
    labels, _ = write_model(folder, 'pervit', data=folder / 'data')
    with open(labels, 'a') as file:
        file.write('train_dataloader = test_dataloader\n')
    config, checkpoint = folder / 'simmim.py', folder / 'simmim.pth'
    config.write_text(PRETRAINING)
    cfg = load_config(config)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = randomize(MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)))
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    return str(labels), str(config), str(checkpoint), model.eval(), pixels(folder / 'data')


def pixels(folder):
    """Images (9, 3, SIDE, SIDE) as the network takes them, in the order of the data set."""
    import mmcv
    paths = sorted(folder.glob('*/*.png'))
    images = np.stack([mmcv.imresize(mmcv.imread(str(path)), (SIDE, SIDE)) for path in paths])
    mean, std = (torch.tensor(values)[:, None, None] for values in ([100., 110., 120.], [50., 60., 70.]))
    return (torch.from_numpy(images).permute(0, 3, 1, 2).flip(1).float() - mean) / std


@pytest.fixture
def tool(monkeypatch, capsys):
    def run(name, *args):
        monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'analysis_tools'))
        try:
            importlib.import_module(name).main([*map(str, args), '--device', 'cpu'])
        finally:
            sys.modules.pop(name, None)
        return [[cell.strip() for cell in line.strip('|').split('|')]
                for line in capsys.readouterr().out.strip().splitlines()]

    return run


def test_hidden_pixels_of_a_config_are_those_of_its_masks_and_images(world, tool):
    labels, config, checkpoint, model, images = world
    head, _, *rows = tool('hidden_pixels', config, checkpoint, labels, '--seed', 3)
    from mmpretrain.datasets.transforms import SimMIMMaskGenerator
    generator = SimMIMMaskGenerator(**{key: value for key, value in MASKS.items() if key != 'type'})
    np.random.seed(3)
    masks = torch.from_numpy(np.stack([generator.transform({})['mask'] for _ in images]))
    expected = hidden_pixel_error(model, [(images, masks)], images.mean(0))
    assert rows == [[name, f'{value:.4f}', '9'] for name, value in (
        ('model', expected.model), ('mean image', expected.mean_image),
        ('nearest visible patch', expected.nearest_patch))]


def test_an_mae_draws_its_own_masks(world, tool, tmp_path):
    """By the seed, from torch's generator."""
    labels, _, _, _, images = world
    config, checkpoint = tmp_path / 'mae.py', tmp_path / 'mae.pth'
    config.write_text(PRETRAINING.split('model =')[0] + f'''
model = dict(
    type='MAE',
    backbone=dict(type='MAEPerViT', arch={TINY_ARCH}, img_size={SIDE}),
    neck=dict(type='MAETokenDecoder', in_channels=24, encoder_stride=4, img_size={SIDE}, embed_dims=16, num_layers=1,
              num_heads=2),
    head=dict(type='MAEPretrainHead', patch_size=4, loss=dict(type='PixelReconstructionLoss', criterion='L2')))
train_dataloader = dict(dataset=dict(type='CustomDataset', pipeline=[]))
''')
    cfg = load_config(config)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = randomize(MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)))
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    tables = [tool('hidden_pixels', config, checkpoint, labels, '--seed', seed)[2:] for seed in (3, 3, 4)]
    assert tables[0] == tables[1] != tables[2]
    torch.manual_seed(3)
    torch.empty((), dtype=torch.int64).random_()  # what a data loader draws where it begins
    expected = hidden_pixel_error(model.eval(), [(images, model.backbone.draw_mask(images))], images.mean(0))
    assert [row[1] for row in tables[0]] == [
        f'{value:.4f}' for value in (expected.model, expected.mean_image, expected.nearest_patch)]


def test_region_matching_of_a_checkpoint_is_that_of_its_backbone(world, tool):
    labels, _, checkpoint, _, images = world
    head, _, *rows = tool('region_matching', labels, checkpoint, '--images', 9, '--crop', 12, '--shift', 4,
                          '--tolerance', 0)
    cfg, offsets = load_config(labels), [(4, 0), (-4, 0), (0, 4), (0, -4)]
    model = classifier_with_backbone(cfg, checkpoint)
    model.backbone.out_type = 'raw'
    found = region_matching_accuracy(model.backbone, images, offsets, 12, 0.)
    assert rows == [['0', f'{found.accuracy:.1f}', f'{found.chance:.1f}', str(found.tokens)]]
    anew, = score_region_matching(cfg, checkpoint, crop=12, shift=4, images=9, tolerances=[0.], recalibration=9,
                                  device='cpu')
    recalibrate(model, build_loader(cfg, mixed(build_sets(cfg)[0], 9)), 9)
    assert anew == region_matching_accuracy(model.backbone, images, offsets, 12, 0.) != found
    *_, row = tool('region_matching', labels, '--random', '--images', 9, '--crop', 12, '--shift', 4, '--tolerance', 0,
                   '--seed', 2)
    untrained = random_classifier(cfg, 2).backbone
    untrained.out_type = 'raw'
    assert row[1] == f'{region_matching_accuracy(untrained, images, offsets, 12, 0., 2).accuracy:.1f}'


def test_mistakes_are_one_line(world, tool):
    labels, _, checkpoint, _, _ = world
    with pytest.raises(SystemExit, match='must have one SimMIMMaskGenerator in its training pipeline, got 0'):
        tool('hidden_pixels', labels, checkpoint, labels)
    for given in ((), (checkpoint, '--random')):
        with pytest.raises(SystemExit, match='2'):
            tool('region_matching', labels, *given)
    with pytest.raises(SystemExit, match="under prefix='teacher.' .*it has one under 'backbone.'"):
        tool('region_matching', labels, checkpoint, '--prefix', 'teacher.')
