"""The table of baselines of a config, against features made by hand from the image files."""
import logging

import cv2
import numpy as np
import pytest
import torch
from conftest import randomize
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from small_classifiers import SIDE, write_model

from pervit_mm.apis.configs import load_config
from pervit_mm.apis.labeled_sets import build_sets, mixed
from pervit_mm.apis.probe import probe
from pervit_mm.apis.scored_backbones import classifier_with_backbone, random_classifier
from pervit_mm.evaluation import Features, center_features, collect_features, measure_features, recalibrate
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')
pytest.importorskip('sklearn')
pytestmark = pytest.mark.usefixtures('one_thread')

TRAIN = '''
custom_imports['imports'].append('pervit_mm.selfsup')
train_dataloader = dict(batch_size=4, dataset=dict(
    type='RepeatDataset', times=2, dataset=dict(
        type='PerViTFewLabels', shots=2, dataset=dict(
            type='CustomDataset', data_root={data!r}, pipeline=[
                dict(type='LoadImageFromFile'), dict(type='RandomFlip', prob=1., direction='horizontal'),
                dict(type='PackInputs')]))))
test_dataloader['batch_size'] = 64
'''
OPTIONS = dict(k=(3, 9), shots=4, seeds=(0, 1), device='cpu')


def write_patterns(folder, count, seed):
    """Images of three classes, of a dim pattern each under noise: 'a/000.png' and so on."""
    patterns = np.random.default_rng(5).integers(0, 40, (3, SIDE, SIDE, 3))
    rng = np.random.default_rng(seed)
    for number in range(count):
        path = folder / 'abc'[number % 3] / f'{number:03}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        image = patterns[number % 3] + rng.integers(0, 200, (SIDE, SIDE, 3))
        cv2.imwrite(str(path), image.astype(np.uint8))


def read_patterns(folder):
    """Images (n, 3, h, w) in BGR and labels in the order of the data set: by class, then by name."""
    paths = sorted(folder.glob('*/*.png'))
    pixels = torch.stack([torch.from_numpy(cv2.imread(str(path))).permute(2, 0, 1) for path in paths])
    return pixels.float(), torch.tensor(['abc'.index(path.parent.name) for path in paths])


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp('world')
    write_patterns(folder / 'train', 36, 0)
    write_patterns(folder / 'test', 24, 1)
    path, weights = write_model(folder, 'pervit', data=folder / 'test')
    with open(path, 'a') as file:
        file.write(TRAIN.format(data=str(folder / 'train')))
    return folder, path, weights


@pytest.fixture
def cfg(world):
    return load_config(world[1])


@pytest.fixture(scope='module')
def pairs(world):
    """Bank and queries as the network takes them: RGB and normalized as in the config."""
    mean, std = (torch.tensor(values)[:, None, None] for values in ([100., 110., 120.], [50., 60., 70.]))
    return [((pixels.flip(1) - mean) / std, labels)
            for pixels, labels in (read_patterns(world[0] / part) for part in ('train', 'test'))]


def direct(name, model, pairs):
    """A row by the single measures, from one batch."""
    bank, queries = (collect_features(model, [pair], ()) for pair in pairs)
    return measure_features(name, bank, queries, *(OPTIONS[key] for key in ('k', 'shots', 'seeds')))


def accuracies(row):
    return row.knn, row.few_knn, row.few_probe


def test_pixel_rows_are_of_the_files_unflipped_and_unnormalized(cfg, world):
    bank, queries = (Features(pixels.flatten(1), {}, labels)
                     for pixels, labels in (read_patterns(world[0] / part) for part in ('train', 'test')))
    plain, centered = probe(cfg, pixels=True, **OPTIONS)
    assert (plain.features, centered.features) == ('pixels', 'pixels, centered')
    assert (plain.bank, plain.queries) == (36, 24), 'wrappers of the training set are left out'
    rest = (OPTIONS['k'], OPTIONS['shots'], OPTIONS['seeds'])
    assert accuracies(plain) == accuracies(measure_features('', bank, queries, *rest))
    assert accuracies(centered) == accuracies(measure_features('', *center_features(bank, queries), *rest))


def test_the_checkpoint_row_is_of_its_backbone(cfg, world, pairs):
    model = classifier_with_backbone(cfg, world[2])
    state = torch.load(world[2])['state_dict']
    assert all(torch.equal(value, state[f'backbone.{key}']) for key, value in model.backbone.state_dict().items())
    row, = probe(cfg, world[2], **OPTIONS)
    assert row == direct('pervit.pth', model.backbone, pairs)
    recalibrated, = probe(cfg, world[2], recalibration=36, **OPTIONS)
    recalibrate(model, [pairs[0]])  # all images in one batch, whose order plays no part
    assert recalibrated == direct('pervit.pth, recalibrated', model.backbone, pairs)
    assert accuracies(recalibrated) != accuracies(row)


def test_the_random_row_has_statistics_of_the_bank(cfg, pairs):
    row, = probe(cfg, random=True, **OPTIONS)
    model = random_classifier(cfg, 0)
    without = direct('', model.backbone, pairs)
    recalibrate(model, [pairs[0]])
    assert row == direct('random weights (seed 0), recalibrated', model.backbone, pairs)
    assert accuracies(row) != accuracies(without)


def test_random_weights_are_random_whatever_the_config_loads(cfg, world):
    def weights(cfg, seed):
        return random_classifier(cfg, seed).backbone.state_dict()['blocks.0.attn.qkv.weight']

    state = torch.get_rng_state()
    plain = weights(cfg, 3)
    assert torch.equal(torch.get_rng_state(), state)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=world[2], prefix='backbone.')
    assert torch.equal(weights(cfg, 3), plain) and not torch.equal(weights(cfg, 4), plain)
    assert cfg.model.backbone.init_cfg.type == 'Pretrained'
    assert 0.01 < plain.std() < 0.03, 'initialized by the rules of PerViT, a deviation of 0.02'


def test_initialization_is_quiet_and_logs_come_back(cfg, caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        random_classifier(cfg, 0)
        logger.info('heard again')
    finally:
        logger.setLevel(level)
        logger.removeHandler(caplog.handler)
    assert {record.message for record in caplog.records} == {'heard again'}


def test_a_checkpoint_of_a_pre_training_loads_under_its_prefix(cfg, world, tmp_path):
    """A teacher among other weights, with the mask token that a classifier doesn't have."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        student = randomize(MODELS.build(dict(cfg.model.backbone, type='MaskTokenPerViT', out_type='featmap')))
    teacher = {key: value + 1 for key, value in student.state_dict().items()}
    state = {**{f'backbone.{key}': value for key, value in student.state_dict().items()},
             **{f'teacher.module.backbone.{key}': value for key, value in teacher.items()},
             'neck.conv.weight': torch.zeros(1)}
    path = str(tmp_path / 'epoch_5.pth')
    torch.save(dict(state_dict=state, meta=dict(epoch=5)), path)
    for prefix, expected in (('backbone.', student.state_dict()), ('teacher.module.backbone', teacher)):
        loaded = classifier_with_backbone(cfg, path, prefix).backbone.state_dict()
        assert 'mask_token' not in loaded and all(torch.equal(value, expected[key]) for key, value in loaded.items())
    row, = probe(cfg, path, prefix='teacher.module.backbone.', recalibration=8, **OPTIONS)
    assert row.features == 'epoch_5.pth, teacher.module.backbone., recalibrated'
    with pytest.raises(UserError, match=r"under prefix='student.' \(--prefix\): it has one under 'backbone.', "
                                        "'teacher.module.backbone.'$"):
        classifier_with_backbone(cfg, path, 'student.')
    torch.save(student.state_dict(), path)
    with pytest.raises(UserError, match=r"it has one under ''$"):
        classifier_with_backbone(cfg, path)
    assert classifier_with_backbone(cfg, path, '')
    del state['backbone.mask_token'], state['backbone.blocks.0.norm1.weight']
    torch.save(state, path)
    with pytest.raises(UserError, match='is not of this config: blocks.0.norm1.weight is not in it'):
        classifier_with_backbone(cfg, path)
    torch.save(dict(conv=torch.zeros(1)), path)
    with pytest.raises(UserError, match=r'its keys begin with conv \(1\); take a checkpoint with this backbone'):
        classifier_with_backbone(cfg, path)
    state = {key: value for key, value in torch.load(world[2])['state_dict'].items()}
    torch.save({**state, 'backbone.blocks.9.norm1.weight': torch.zeros(1)}, path)
    with pytest.raises(UserError, match='blocks.9.norm1.weight is not in the config'):
        classifier_with_backbone(cfg, path)


def test_parts_are_taken_evenly_and_the_mixed_ones_by_chance(cfg):
    bank, queries = build_sets(cfg, 4, 100)
    assert bank.indices == [0, 12, 23, 35] and len(queries) == 24
    chosen = mixed(queries, 10).indices
    assert len(set(chosen)) == 10 and chosen != sorted(chosen) and chosen == mixed(queries, 10).indices
    assert len(mixed(queries, 100)) == 24


def test_mistakes_are_told_ahead_of_the_work(cfg, world):
    def changed(**parts):
        other = cfg.copy()
        for key, value in parts.items():
            other[key] = value
        return other

    several = dict(dataset=dict(type='ConcatDataset', datasets=[]))
    for config, arguments, message in (
            (cfg, {}, 'nothing to measure'),
            (cfg, dict(pixels=True, seeds=(1, )), r'at least two different numbers, got \(1,\)'),
            (cfg, dict(pixels=True, recalibration=-1), r'recalibration \(--recalibrate\) .* got -1'),
            (cfg, dict(pixels=True, bank=0), r'bank \(--bank\) must be a positive number of images, got 0'),
            (cfg, dict(pixels=True, images=0), r'images \(--images\)'),
            (cfg, dict(pixels=True, device='nothing'), 'device='),
            (cfg, dict(checkpoint='nothing.pth'), 'nothing.pth'),
            (cfg, dict(checkpoint='pervit_mm://nothing.pth'), 'none of the checkpoints that come with pervit_mm'),
            (changed(test_dataloader=None), dict(pixels=True), 'has no test_dataloader, .* give a config with labels'),
            (changed(model=dict(type='SimMIM')), dict(pixels=True), 'has no model.backbone'),
            (changed(train_dataloader=several), dict(pixels=True), 'no pipeline and no single dataset within')):
        with pytest.raises(UserError, match=message) as told:
            next(probe(config, **{**OPTIONS, **arguments}))
        assert '\n' not in str(told.value)
