"""How scenes of Fashion-MNIST items are drawn: a scene depends only on its own number, and every item stays in view."""
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from made_items import make_fashion_mnist, make_items, write_idx

from pervit_mm.datasets import fashion_scenes
from pervit_mm.datasets.fashion_mnist import missing_files
from pervit_mm.datasets.fashion_scenes import SPLITS, FashionScenes
from pervit_mm.datasets.fashion_scenes_canvas import TEXTURES, cut_out, draw_ground, dye, read_idx
from pervit_mm.datasets.fashion_scenes_files import prepare_fashion_scenes
from pervit_mm.utils.errors import UserError

REAL = Path(__file__).resolve().parents[2] / 'data' / 'fashion_mnist'


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A folder that stands in for Fashion-MNIST, and its md5 sums."""
    folder = tmp_path_factory.mktemp('source') / 'fashion_mnist'
    return folder, make_fashion_mnist(folder)


@pytest.fixture
def squares():
    """Scenes of items that fill their squares, so that the side follows from the area."""
    return FashionScenes(np.full((10, 28, 28), 255, np.uint8), np.arange(10), 'train')


def test_idx_files_are_read_whole_or_refused(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / 'file', array)
    np.testing.assert_array_equal(read_idx(tmp_path / 'file'), array)
    whole = (tmp_path / 'file').read_bytes()
    for broken in (b'', b'\0\0\x08', whole[:9], whole[:-1], whole + b'\0', b'\x1f\x8b' + whole[2:]):
        (tmp_path / 'file').write_bytes(broken)
        with pytest.raises(ValueError, match='path=.*is no whole, extracted idx file'):
            read_idx(tmp_path / 'file')


def test_cut_out_follows_the_outline_and_leaves_the_black_outside():
    item = np.full((28, 28), 16, np.uint8)  # as bright as haze can be
    item[4:20, 6:10] = 51
    expected = np.zeros((56, 56), bool)
    expected[8:40, 12:20] = True
    gray, inside = cut_out(item, 56)
    np.testing.assert_array_equal(inside, expected)
    np.testing.assert_allclose(gray[inside], 0.2, rtol=1e-6)
    np.testing.assert_array_equal(cut_out(item, 56, flip=True)[1], expected[:, ::-1])
    gray, inside = cut_out(item, 28)
    np.testing.assert_array_equal(inside, item == 51)
    assert cut_out(item, 91)[0].dtype == np.float32 and cut_out(item, 91)[1].shape == (91, 91)


def test_dye_keeps_the_order_of_grays():
    colors = dye(np.linspace(0, 1, 5), np.random.default_rng(0))
    assert colors.shape == (5, 3) and colors.min() >= 0 and colors.max() <= 255
    assert (np.diff(colors, axis=0) > 0).all()
    np.testing.assert_allclose(np.diff(colors, 2, axis=0), 0, atol=1e-9)


@pytest.mark.parametrize('kind', sorted(TEXTURES))
def test_ground_is_textured_but_low_in_contrast(kind, monkeypatch):
    monkeypatch.setattr('pervit_mm.datasets.fashion_scenes_canvas.TEXTURES', {kind: TEXTURES[kind]})
    for seed in range(5):
        ground = draw_ground((130, 170), np.random.default_rng(seed))
        assert ground.shape == (130, 170, 3) and ground.dtype == np.float32
        assert (np.ptp(ground, axis=(0, 1)) <= 2 * 45 + 1e-3).all()
        assert ground.std(axis=(0, 1)).max() > 1


def test_a_scene_is_the_same_whenever_it_is_drawn(source):
    folder, _ = source
    first = FashionScenes.from_folder(folder, 'train', seed=3)
    drawn = [first.scene(index) for index in range(4)]
    again = FashionScenes.from_folder(folder, 'train', seed=3).scene(2)
    np.testing.assert_array_equal(again.image, drawn[2].image)
    np.testing.assert_array_equal(again.owners, drawn[2].owners)
    assert (again.classes, again.items, again.areas) == (drawn[2].classes, drawn[2].items, drawn[2].areas)
    # Even with the same items, no split repeats the ground and layout of another's scene.
    others = [FashionScenes(*make_items(0), split, seed).scene(index)
              for split, seed, index in product(('train', 'test', 'val'), (3, 4), (2, 3))]
    assert len({scene.image.tobytes() for scene in others}) == 12


def test_scenes_have_the_items_that_they_may_have():
    """A scene of all items in their order is what it was before items could be named: the published scenes stay."""
    images, labels = make_items(0)
    some = FashionScenes(images, labels, 'val', items=[3, 14])
    assert {item for index in range(4) for item in some.scene(index).items} == {3, 14}
    every = FashionScenes(images, labels, 'val', items=range(30)).scene(0)
    np.testing.assert_array_equal(every.image, FashionScenes(images, labels, 'val').scene(0).image)
    for items in ([], [30], [-1], [True] * 30, [1.5], [[1, 2]]):
        with pytest.raises(UserError, match=r'items must be at least one index from 0 to 29, as integers, got \['):
            FashionScenes(images, labels, 'val', items=items)


@pytest.mark.parametrize('max_side, least, most', [(224, 4, 12), (320, 6, 19), (128, 2, 6)])
def test_the_number_of_items_grows_with_the_mean_area(squares, max_side, least, most):
    """Of 128 to 224 px it is (128 + 224)² / 4, of 128 to 320 px 1.62 times as much."""
    scenes = FashionScenes(squares.images, squares.labels, 'train', max_side=max_side)
    assert scenes.num_items == (least, most)
    drawn = [scenes.scene(index) for index in range(12)]
    assert all(len(scene.items) <= most for scene in drawn)
    assert max(side for scene in drawn for side in scene.owners.shape) in range(max_side - 32, max_side + 1)


def test_sizes_are_in_range_and_every_item_stays_in_view(squares):
    covered, numbers, heights, widths, sides = 0, set(), set(), set(), set()
    for index in range(60):
        scene = squares.scene(index)
        height, width = scene.owners.shape
        assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8
        heights.add(height)
        widths.add(width)
        numbers.add(len(scene.items))
        assert len(scene.items) == len(scene.classes) == len(scene.areas)
        assert set(np.unique(scene.owners)) - {0} == set(range(1, len(scene.items) + 1))
        for k, area in enumerate(scene.areas, 1):
            side = round(area**0.5)
            assert side**2 == area
            sides.add(side)
            seen = int((scene.owners == k).sum())
            assert 64 <= seen <= area and seen >= 0.4 * area
            covered += seen < area
        # The last item is on top, so nothing covers it.
        rows, columns = np.nonzero(scene.owners == len(scene.items))
        assert np.ptp(rows) + 1 == np.ptp(columns) + 1 == scene.areas[-1]**0.5 and len(rows) == scene.areas[-1]
    assert covered > 40, 'items overlap'
    assert 3 <= min(numbers) <= 4 and 10 <= max(numbers) <= 12
    assert 28 <= min(sides) < 31 and 53 < max(sides) <= 56
    for lengths in (heights, widths):
        assert 128 <= min(lengths) < 138 and 214 < max(lengths) <= 224


def test_an_item_too_small_to_be_seen_is_left_out():
    images = np.zeros((2, 28, 28), np.uint8)
    images[1, 14, 14] = 255  # enlarged to 56 x 56, it has at most four pixels
    scene = FashionScenes(images, np.zeros(2, int), 'train').scene(0)
    assert scene.items == () and not scene.owners.any() and not scene.label_map().any()
    assert scene.annotations(0) == []


def test_masks_are_where_the_items_are_painted(monkeypatch):
    images = np.zeros((2, 28, 28), np.uint8)
    images[:, 2:, 3:9] = images[:, 20:, 3:] = 255  # an L
    scenes = FashionScenes(images, np.arange(2), 'test')
    monkeypatch.setattr(fashion_scenes, 'draw_ground', lambda size, rng: np.full((*size, 3), 60, np.float32))
    monkeypatch.setattr(fashion_scenes, 'dye', lambda gray, rng: 60 + 130 * np.stack([gray] * 3, -1))
    for index in range(5):
        scene = scenes.scene(index)
        # The standard deviation of the grain is at most 5.
        np.testing.assert_array_equal(scene.image.min(2) > 120, scene.owners > 0)
        assert scene.image[scene.owners > 0].mean() == pytest.approx(190, abs=0.5)
        assert 0.9 < scene.image[scene.owners == 0].astype(float).std() < 5.2


@pytest.mark.skipif(bool(missing_files(REAL)), reason='Fashion-MNIST is not in data/fashion_mnist')
def test_no_real_item_is_in_both_splits():
    train, test = ({image.tobytes() for image in FashionScenes.from_folder(REAL, split).images} for split in SPLITS)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert not train & test


def test_missing_pycocotools_is_named(squares, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pycocotools', None)
    with pytest.raises(UserError, match='pip install pycocotools'):
        squares.scene(0).annotations(0)


@pytest.mark.parametrize('arguments, message', [
    (dict(train=0), r'train must be an integer from 1 on, got 0'),
    (dict(test=2.0), r'test must be an integer from 1 on, got 2.0'),
    (dict(seed=-1), r'seed must be an integer from 0 on, got -1'),
    (dict(val=-1), r'val must be an integer from 0 on, got -1'),
    (dict(max_side=127), r'max_side must be an integer from 128 on, got 127'),
    (dict(max_side=2000), r'max_side must be an integer from 128 to 1024, in pixels, got 2000'),
])
def test_numbers_out_of_range_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        prepare_fashion_scenes(tmp_path / 'fashion_scenes', **arguments)


def test_bad_items_and_splits_are_named(squares):
    images, labels = squares.images, squares.labels
    for arguments, message in (
        ((images[:, :27], labels, 'train'), r'images must be uint8 of shape \(N, 28, 28\), got .* of \(10, 27, 28\)'),
        ((images / 255, labels, 'train'), 'images must be uint8 .* got float64'),
        ((images[:0], labels[:0], 'train'), r'got uint8 of \(0, 28, 28\)'),
        ((images, labels[:9], 'train'), r'labels must be 10 classes from 0 to 9, one per image, got \(9,\)'),
        ((images, labels + 1, 'train'), 'labels must be .* from 1 to 10'),
        ((images, labels, 'valid'), r"split must be one of \['test', 'train', 'val'\], got 'valid'"),
    ):
        with pytest.raises(ValueError, match=message):
            FashionScenes(*arguments)
    with pytest.raises(ValueError, match="split must be one of .* got 'valid'"):
        FashionScenes.from_folder('nowhere', 'valid')
    with pytest.raises(ValueError, match='index must be an integer from 0 on, got -1'):
        squares.scene(-1)
