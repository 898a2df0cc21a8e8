"""Scenes are cut without counting a pixel twice, and every kind of weights can be scored."""
import cv2
import numpy as np
import pytest
import torch
from conftest import TINY_ARCH
from mmengine.config import Config

import pervit_mm.selfsup  # noqa: F401  (registers Leopart)
from pervit_mm.analysis import capture
from pervit_mm.apis import overclustering
from pervit_mm.apis.overclustering import foreground_precision, read_tiles, score_overclustering, token_features
from pervit_mm.apis.scored_backbones import random_classifier
from pervit_mm.selfsup.foreground import attention_foreground
from pervit_mm.utils.errors import UserError

pytest.importorskip('sklearn')
pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture
def scenes(tmp_path):
    """Two scenes of 20 x 30 and 16 x 16 pixels; the ground is dark and two items are bright."""
    rng = np.random.default_rng(0)
    for folder in ('test', 'labels/test'):
        (tmp_path / folder).mkdir(parents=True)
    for name, size in (('000000', (20, 30)), ('000001', (16, 16))):
        label = np.zeros(size, np.uint8)
        label[:8, :8], label[8:, 8:] = 3, 10
        image = rng.integers(0, 30, (*size, 3)) + np.array([0, 60, 200])[np.searchsorted([0, 3, 10], label)][..., None]
        cv2.imwrite(str(tmp_path / 'test' / f'{name}.png'), image.astype(np.uint8))
        cv2.imwrite(str(tmp_path / 'labels' / 'test' / f'{name}.png'), label)
    return tmp_path


def config(**backbone):
    return Config(dict(
        default_scope='mmpretrain',
        data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[70.] * 3, std=[90.] * 3, to_rgb=True),
        model=dict(type='Leopart',
                   backbone=dict(type='PerViT', arch=TINY_ARCH, img_size=16, out_type='raw', **backbone),
                   neck=dict(type='DistillationNeck', in_channels=24, out_channels=4, bottleneck_channels=5),
                   head=dict(type='ClusterHead', out_channels=4, in_channels=5))))


def test_squares_cover_a_scene_and_count_each_pixel_once(scenes):
    tiles = read_tiles(scenes, 'test', 16)
    # Rows begin at 0 and 4, columns at 0 and 14; the second scene is one square.
    assert tiles.images.shape == (5, 3, 16, 16) and tiles.labels.shape == (5, 16, 16)
    whole = cv2.imread(str(scenes / 'test' / '000000.png'))
    assert np.array_equal(tiles.images[3].permute(1, 2, 0), whole[4:, 14:])
    label = cv2.imread(str(scenes / 'labels' / 'test' / '000000.png'), cv2.IMREAD_UNCHANGED)
    assert (tiles.labels[:4] != 255).sum() == 20 * 30
    for value in (0, 3, 10):
        assert (tiles.labels[:4] == value).sum() == (label == value).sum()
    # The fourth square has the last 4 rows and 14 columns for itself.
    assert (tiles.labels[3, 12:, 2:] == 10).all() and (tiles.labels[3, :12] == 255).all()
    assert (tiles.labels[3, :, :2] == 255).all()
    assert len(read_tiles(scenes, 'test', 16, scenes=1).images) == 4


def test_every_kind_of_weights_is_scored(scenes, tmp_path):
    """Pixels tell the items apart. Random weights differ by seed. A start and a checkpoint give their own weights."""
    tiles = read_tiles(scenes, 'test', 16)
    pixels = score_overclustering(config(), 'pixels', tiles, tiles, clusters=12)
    assert len(pixels) == 3 and min(one.miou for one in pixels) > 80 and len(pixels[0].iou) == 3
    weights = random_classifier(config(), 5).backbone.state_dict()
    state = {f'teacher.module.backbone.{key}': value for key, value in weights.items()}
    torch.save(dict(state_dict=state), tmp_path / 'pre.pth')
    start = config(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'pre.pth'),
                                 prefix='teacher.module.backbone.'))
    found = [score_overclustering(cfg, name, tiles, tiles, clusters=6, seed=5, draws=1)[0].iou
             for cfg, name in ((config(), 'random'), (start, 'start'), (config(), str(tmp_path / 'pre.pth')))]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    other, = score_overclustering(config(), 'random', tiles, tiles, clusters=6, seed=6, draws=1)
    assert not torch.equal(found[0], other.iou)


def test_the_foreground_is_compared_with_items(scenes, monkeypatch):
    """Against attention as the analysis records it, and pixels counted by hand."""
    monkeypatch.setattr(overclustering, 'recalibrate', lambda *args: None)
    tiles, model = read_tiles(scenes, 'test', 16), random_classifier(config(), 0).eval()
    cfg = config()
    cfg.model.mass = 0.5
    found = foreground_precision(cfg, 'random', tiles, tiles)
    with capture(model) as record, torch.no_grad():
        model.backbone((tiles.images[:, [2, 1, 0]].float() - 70) / 90)
    taken = attention_foreground(record.blocks[-1].attention.mean((1, 2)), (4, 4), 0.5)
    shown = tiles.labels.view(5, 4, 4, 4, 4).transpose(2, 3).flatten(3)  # pixels of each token
    known, items = (shown != 255).any(3), 2 * ((shown > 0) & (shown < 255)).sum(3) > (shown != 255).sum(3)
    assert found == pytest.approx([100 * float(items[chosen].float().mean()) for chosen in (taken & known, known)])
    assert 0 < taken.float().mean() < 1 and found[0] != found[1]
    with pytest.raises(UserError, match="weights must be of a network, which pays attention, got 'pixels'"):
        foreground_precision(cfg, 'pixels', tiles, tiles)


def test_features_are_the_last_output_of_normalized_tiles(scenes):
    tiles, model = read_tiles(scenes, 'test', 16), random_classifier(config(), 0)
    with torch.no_grad():
        expected = model.backbone.eval()((tiles.images[:, [2, 1, 0]].float() - 70) / 90)[-1]
    torch.testing.assert_close(token_features(model.train(), tiles), expected.flatten(0, 1))
    assert model.backbone.training


def test_mistakes(scenes):
    with pytest.raises(UserError, match="has no folder 'val': tools/prepare_fashion_scenes.py draws the scenes"):
        read_tiles(scenes, 'val', 16)
    with pytest.raises(UserError, match='at least 20 px a side'):
        read_tiles(scenes, 'test', 20)
    (scenes / 'labels' / 'test' / '000001.png').unlink()
    with pytest.raises(UserError, match='000001.png. must be a label map of the size of its scene'):
        read_tiles(scenes, 'test', 16)
