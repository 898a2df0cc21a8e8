"""FashionClutter: a Fashion-MNIST item in the middle of others, to be classified.

In Fashion-MNIST every item fills its image. Here other items lie around and under the one in the middle, so a network
has to know where it looks. The images are gray, 56 x 56 pixels. The files have the names and the format of
Fashion-MNIST's, so that MMPretrain's ``FashionMNIST`` reads them.
"""
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ..utils.atomic_write import replacing
from ..utils.errors import UserError, told
from .fashion_mnist import FASHION_MNIST_FILES, check_fashion_mnist
from .fashion_scenes import SPLITS, check_count
from .fashion_scenes_canvas import cut_out, draw_ground, read_idx, to_pixels

#: Height and width of an image in pixels.
SIDE = 56
#: Fewest and most items besides the one in the middle.
NUM_OTHERS = (3, 6)
#: Sides of the items' squares in pixels, and how far the middle one lies from the center at most, along each axis.
ITEM_SIDES, SHIFT = (28, 34), 3
#: How far the centers of the others are from the image's center, along one axis at least.
DISTANCE = 16

_MANIFEST, _FORMAT = 'fashion_clutter.json', 1


def draw_cluttered(middle: np.ndarray, items: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw an item before others on a textured ground.

    Args:
        middle (np.ndarray): The item in the middle, gray ``(28, 28)``, uint8, on black. It covers the others.
        items (np.ndarray): The others are chosen from these, ``(N, 28, 28)``.
        rng (np.random.Generator): The random generator.

    Returns:
        np.ndarray: Gray pixels ``(56, 56)``, uint8.
    """
    image = draw_ground((SIDE, SIDE), rng).mean(-1)
    for _ in range(rng.integers(NUM_OTHERS[0], NUM_OTHERS[1] + 1)):
        while True:
            center = rng.uniform(-SIDE / 2, SIDE / 2, 2)
            if np.abs(center).max() >= DISTANCE:
                break
        _put(image, items[rng.integers(len(items))], center, rng)
    _put(image, middle, rng.uniform(-SHIFT, SHIFT, 2), rng)
    return to_pixels(image, rng)


def _put(image: np.ndarray, item: np.ndarray, center: np.ndarray, rng: np.random.Generator) -> None:
    """Put an item of random size, direction and brightness around a center; what lies outside is cut off."""
    side = int(rng.integers(ITEM_SIDES[0], ITEM_SIDES[1] + 1))
    gray, inside = cut_out(item, side, bool(rng.random() < 0.5))
    dark, bright = rng.uniform(0, 60), rng.uniform(100, 255)
    start = np.round(SIDE / 2 + center - side / 2).astype(int)
    rows, cols = (slice(max(0, at), min(SIDE, at + side)) for at in start)
    part = np.s_[rows.start - start[0]:rows.stop - start[0], cols.start - start[1]:cols.stop - start[1]]
    image[rows, cols][inside[part]] = (dark + gray * (bright - dark))[part][inside[part]]


def prepare_fashion_clutter(
        root: str | Path = 'data/fashion_clutter',
        fashion_mnist: str | Path = 'data/fashion_mnist',
        train: int = 48000,
        test: int = 10000,
        seed: int = 0,
        files: Mapping[str, str] = FASHION_MNIST_FILES,
        log: Callable[[str], None] = print) -> bool:
    """Make sure that a folder holds the images and labels of both splits.

    No two images have the same item in the middle. Training images are of training items, test images of test items.

    Args:
        root (str | Path): The folder. Files of other settings are replaced. Defaults to ``'data/fashion_clutter'``.
        fashion_mnist (str | Path): The folder with Fashion-MNIST's extracted files. Defaults to
            ``'data/fashion_mnist'``.
        train (int): Training images, at most 60000. Defaults to 48000.
        test (int): Test images, at most 10000. Defaults to 10000.
        seed (int): At least 0. Defaults to 0.
        files (Mapping[str, str]): File names and md5 sums of Fashion-MNIST.
        log (Callable): Takes a sentence on what is done. Defaults to ``print``.

    Returns:
        bool: True if the set was made, False if it was there already.

    Raises:
        UserError: If a number is out of range, ``root`` cannot be written or holds another data set, or Fashion-MNIST
            is not whole in ``fashion_mnist``.
    """
    root, counts = Path(root), dict(train=check_count('train', train, 1), test=check_count('test', test, 1))
    settings = dict(format=_FORMAT, **counts, seed=check_count('seed', seed, 0), fashion_mnist=dict(files))
    names = [name for split in SPLITS for name in SPLITS[split]]
    manifest = root / _MANIFEST
    try:
        there = json.loads(manifest.read_text())
    except (OSError, ValueError):  # none, or a damaged one
        there = None
    if there == settings and all((root / name).is_file() for name in names):
        log(f'The images are in {root}: {train} for training, {test} for testing.')
        return False
    if not manifest.is_file() and any((root / name).exists() for name in names):
        raise UserError(f'root={str(root)!r} holds another data set with these file names, such as Fashion-MNIST '
                        'itself: name another folder')
    check_fashion_mnist(fashion_mnist, files)
    with told(f'the folder {str(root)!r} cannot be made'):
        root.mkdir(parents=True, exist_ok=True)
    sources = {split: [read_idx(Path(fashion_mnist) / name) for name in SPLITS[split]] for split in counts}
    for split, count in counts.items():  # ahead of the first change
        if count > len(sources[split][0]):
            raise UserError(f'{split} must be an integer from 1 to {len(sources[split][0])}, the items of that split, '
                            f'got {count!r}: each is in the middle of one image')
    manifest.unlink(missing_ok=True)
    for number, (split, count) in enumerate(counts.items()):
        items, labels = sources[split]
        rng = np.random.default_rng([seed, number])
        chosen = rng.permutation(len(items))[:count]
        images = np.stack([draw_cluttered(items[index], items, rng) for index in chosen])
        for name, array in zip(SPLITS[split], (images, labels[chosen])):
            with replacing(root / name) as file:
                # Two zeros, the code of unsigned bytes, the number of dimensions, and each one's length.
                file.write(bytes((0, 0, 8, array.ndim)) + np.array(array.shape, '>u4').tobytes() + array.tobytes())
    manifest.write_text(json.dumps(settings, indent=2) + '\n')
    log(f'The images are in {root} now: {train} for training, {test} for testing.')
    return True
