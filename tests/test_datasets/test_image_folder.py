"""The folder of drawn JPEG images."""
import cv2
import numpy as np
import pytest
from made_items import make_fashion_mnist, make_items

from pervit_mm.datasets.image_folder import draw_item, make_image_folder, make_item_folder


def test_image_folder_is_seeded(tmp_path):
    for name in 'ab':
        make_image_folder(str(tmp_path / name), num_classes=2, train_images=1, val_images=1)
    files = sorted(path.relative_to(tmp_path / 'a') for path in (tmp_path / 'a').rglob('*.JPEG'))
    assert len(files) == 4
    for file in files:
        content = (tmp_path / 'a' / file).read_bytes()
        assert content[:3] == b'\xff\xd8\xff', 'a JPEG file'
        assert content == (tmp_path / 'b' / file).read_bytes()
    assert (tmp_path / 'a' / 'classes.txt').read_text() == 'cross\ndiamond\n'
    with pytest.raises(ValueError, match="already has a 'train'"):
        make_image_folder(str(tmp_path / 'a'))
    with pytest.raises(ValueError, match='num_classes .* 1 to 6, got 7'):
        make_image_folder(str(tmp_path / 'c'), num_classes=7)


def test_items_stand_before_a_ground(tmp_path):
    """The ground is the same with and without the item; the item's pixels are those that differ."""
    item, empty = make_items(0)[0][1], np.zeros((28, 28), np.uint8)
    for seed in range(3):
        image, ground = (draw_item(pixels, (40, 48), np.random.default_rng(seed)).astype(int)
                         for pixels in (item, empty))
        changed = (np.abs(image - ground) > 8).any(-1)
        share = (item > 16).mean()
        assert image.shape == (40, 48, 3) and changed.mean() < share < 2.8 * changed.mean()
        rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
        assert changed[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1].mean() > 0.6, 'a rectangle, no scatter'


def test_item_folder(tmp_path):
    make_fashion_mnist(tmp_path / 'items')
    for name in 'ab':
        make_item_folder(str(tmp_path / name), tmp_path / 'items', 10, 2, 1, (32, 40))
    files = sorted(path.relative_to(tmp_path / 'a') for path in (tmp_path / 'a').rglob('*.JPEG'))
    assert len(files) == 30 and {file.parts[1] for file in files} >= {'Ankle boot', 'T-shirt'}
    assert all((tmp_path / 'a' / file).read_bytes() == (tmp_path / 'b' / file).read_bytes() for file in files)
    assert cv2.imread(str(tmp_path / 'a' / files[0])).shape == (32, 40, 3)
    for args, message in (((tmp_path / 'items', 10, 3, 1), 'must be at most 3 together'),
                          ((tmp_path / 'nowhere', ), 'lacks t10k-images-idx3-ubyte or'),
                          ((tmp_path / 'items', 11), 'num_classes .* 1 to 10, got 11'),
                          ((tmp_path / 'items', 2, 1, 1, (20, 40)), 'at least 28 pixels')):
        with pytest.raises(ValueError, match=message):
            make_item_folder(str(tmp_path / 'c'), *args)
