"""Small files in the format of Fashion-MNIST."""
import hashlib

import numpy as np

from pervit_mm.datasets import FASHION_MNIST_FILES
from pervit_mm.datasets.fashion_scenes import SPLITS


def write_idx(path, array):
    """Write bytes as Fashion-MNIST's files hold them."""
    lengths = b''.join(length.to_bytes(4, 'big') for length in array.shape)
    path.write_bytes(bytes((0, 0, 8, array.ndim)) + lengths + array.tobytes())


def make_items(seed, count=30):
    """Patterned rectangles, some with a hole, in a haze that does not belong to them. The ten classes take turns."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 9, (count, 28, 28), dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = rng.integers(0, 9, 2)
        bottom, right = rng.integers(18, 29, 2)
        image[top:bottom, left:right] = rng.integers(60, 256, (bottom - top, right - left))
        if i % 3 == 0:
            image[12:16, 11:15] = 0
    return images, np.arange(count, dtype=np.uint8) % 10


def make_fashion_mnist(folder, train_seed=0, test_seed=1, train_count=30):
    """Make a folder of small files in Fashion-MNIST's format, and return their md5 sums."""
    folder.mkdir()
    for split, seed, count in (('train', train_seed, train_count), ('test', test_seed, 30)):
        for name, array in zip(SPLITS[split], make_items(seed, count)):
            write_idx(folder / name, array)
    return {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in FASHION_MNIST_FILES}
