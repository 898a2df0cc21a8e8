"""FashionClutter: what lies in the middle, and the files that MMPretrain reads."""
import numpy as np
import pytest
from made_items import make_fashion_mnist

from pervit_mm.datasets import prepare_fashion_clutter
from pervit_mm.datasets.fashion_clutter import SHIFT, SIDE, draw_cluttered
from pervit_mm.datasets.fashion_scenes_canvas import read_idx
from pervit_mm.utils.errors import UserError

COUNTS = dict(train=9, test=4)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp('source') / 'fashion_mnist'
    return folder, make_fashion_mnist(folder)


def prepare(source, root, seed=0, **counts):
    folder, files = source
    return prepare_fashion_clutter(root, folder, **{**COUNTS, **counts}, seed=seed, files=files, log=lambda text: None)


def test_the_middle_item_lies_in_the_middle_and_is_whole():
    """A full square is at least 28 px wide and its center at most 3 px from the image's: this part shows it alone."""
    square, others = np.full((28, 28), 255, np.uint8), np.full((5, 28, 28), 17, np.uint8)
    reach = 28 // 2 - SHIFT - 1
    middle = slice(SIDE // 2 - reach, SIDE // 2 + reach)
    for seed in range(20):
        image = draw_cluttered(square, others, np.random.default_rng(seed))
        assert image.shape == (SIDE, SIDE) and image.dtype == np.uint8
        assert image[middle, middle].std() < 6  # one brightness, and noise of a deviation of at most 5
        assert image.std() > 8


def test_other_items_stay_away_from_the_center():
    """With an empty middle item, the center shows the ground, which no item covers whose square ends before it."""
    empty, others = np.zeros((28, 28), np.uint8), np.zeros((1, 28, 28), np.uint8)
    others[0, 13:15, 13:15] = 255  # two pixels in the middle of the square
    spots = 0
    for seed in range(20):
        alone = draw_cluttered(empty, np.zeros_like(others), np.random.default_rng(seed)).astype(int)
        image = draw_cluttered(empty, others, np.random.default_rng(seed)).astype(int)
        changed = np.abs(image - alone) > 0
        assert not changed[SIDE // 2 - 12:SIDE // 2 + 12, SIDE // 2 - 12:SIDE // 2 + 12].any()
        spots += changed.any()
    assert spots > 10


def test_the_files_hold_what_was_asked_for_and_repeat(source, tmp_path):
    pytest.importorskip('mmpretrain')
    from mmpretrain.datasets import FashionMNIST
    assert prepare(source, tmp_path / 'a') and not prepare(source, tmp_path / 'a')
    for split, test_mode in (('train', False), ('test', True)):
        dataset = FashionMNIST(data_root=str(tmp_path / 'a'), split=split, test_mode=test_mode, pipeline=[])
        assert len(dataset) == COUNTS[split] and dataset[0]['img'].shape == (SIDE, SIDE)
        own = read_idx(source[0] / f'{"t10k" if test_mode else "train"}-labels-idx1-ubyte')
        assert set(dataset.get_gt_labels()) <= set(own)
    prepare(source, tmp_path / 'b')
    prepare(source, tmp_path / 'c', seed=1)
    a, b, c = (read_idx(tmp_path / name / 'train-images-idx3-ubyte') for name in 'abc')
    assert (a == b).all() and (a != c).any()
    (tmp_path / 'b' / 'fashion_clutter.json').write_text('{')
    assert prepare(source, tmp_path / 'b')  # damaged: drawn anew
    assert prepare(source, tmp_path / 'a', train=5)  # other settings: drawn anew
    assert len(read_idx(tmp_path / 'a' / 'train-labels-idx1-ubyte')) == 5


@pytest.mark.parametrize('kwargs, message', [
    (dict(seed=-1), 'seed must be an integer from 0 on, got -1'),
    (dict(train=0), 'train must be an integer from 1 on, got 0'),
    (dict(test=10**6), 'test must be an integer from 1 to .*, got 1000000'),
])
def test_mistakes(source, tmp_path, kwargs, message):
    prepare(source, tmp_path / 'a')
    before = {path.name: path.read_bytes() for path in (tmp_path / 'a').iterdir()}
    with pytest.raises(UserError, match=message):
        prepare(source, tmp_path / 'a', **kwargs)
    assert {path.name: path.read_bytes() for path in (tmp_path / 'a').iterdir()} == before


def test_another_data_set_is_not_written_over(source):
    """Fashion-MNIST and MNIST have the same four file names."""
    before = {path.name: path.read_bytes() for path in source[0].iterdir()}
    with pytest.raises(UserError, match='holds another data set with these file names'):
        prepare(source, source[0])
    assert {path.name: path.read_bytes() for path in source[0].iterdir()} == before


def test_without_fashion_mnist_it_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match='lacks train-images-idx3-ubyte.*run "make data"'):
        prepare_fashion_clutter(tmp_path / 'a', tmp_path / 'none')
