"""A small folder of JPEG images in ImageNet's layout, for tests and trial runs."""
import os
import os.path as osp
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..utils.errors import UserError
from .fashion_scenes import FASHION_CLASSES, SPLITS
from .fashion_scenes_canvas import cut_out, draw_ground, dye, read_idx, to_pixels

# The shape of each class: a function that tells whether the point (y, x), in [-1, 1], belongs to the shape.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    'cross': lambda y, x: (np.abs(y) < 0.2) | (np.abs(x) < 0.2),
    'diamond': lambda y, x: np.abs(y) + np.abs(x) < 0.7,
    'disc': lambda y, x: y**2 + x**2 < 0.5,
    'ring': lambda y, x: np.abs(np.hypot(y, x) - 0.65) < 0.18,
    'square': lambda y, x: np.maximum(np.abs(y), np.abs(x)) < 0.6,
    'stripes': lambda y, x: np.sin(9 * y) > 0,
}


def draw_image(shape: str, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw one image: a shape at a random place and scale, in random colors and with a random texture.

    Args:
        shape (str): A key of :data:`SHAPES`.
        size (tuple[int, int]): Height and width in pixels.
        rng (np.random.Generator): The random generator.

    Returns:
        np.ndarray: RGB pixels ``(height, width, 3)``, uint8.
    """
    height, width = size
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing='ij')
    shift, scale = rng.uniform(-0.25, 0.25, 2), rng.uniform(0.7, 1.2)
    inside = SHAPES[shape]((y - shift[0]) / scale, (x - shift[1]) / scale)
    dark, bright = rng.uniform(0, 110, 3), rng.uniform(140, 255, 3)
    image = np.where(inside[..., None], bright, dark)
    angle, pitch = rng.uniform(0, np.pi), rng.uniform(10, 40)
    weave = np.sin(pitch * (np.cos(angle) * y + np.sin(angle) * x))
    image = image + 15 * weave[..., None] + rng.normal(0, 8, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def make_image_folder(root: str,
                      num_classes: int = 4,
                      train_images: int = 8,
                      val_images: int = 4,
                      size: tuple[int, int] = (60, 80),
                      seed: int = 0) -> None:
    """Write ``root/train/<class>/*.JPEG``, ``root/val/<class>/*.JPEG`` and ``root/classes.txt``.

    The classes differ in the shape they show. The same arguments give the same pixels.

    Args:
        root (str): The folder to make. It must not hold a train or val folder yet.
        num_classes (int): Number of classes, at most the number of :data:`SHAPES`. Defaults to 4.
        train_images (int): Training images of each class. Defaults to 8.
        val_images (int): Validation images of each class. Defaults to 4.
        size (tuple[int, int]): Least height and width in pixels. Each side of an image is up to a quarter larger,
            because real images differ in size too. Defaults to (60, 80).
        seed (int): Random seed. Defaults to 0.

    Raises:
        UserError: If a number is out of range, ``size`` is too small, or ``root`` holds a train or val folder.
    """
    _check(root, num_classes, len(SHAPES), train_images, val_images, size)
    rng = np.random.default_rng(seed)
    classes = sorted(SHAPES)[:num_classes]

    def draw(shape: str, count: int) -> Iterator[np.ndarray]:
        for _ in range(count):
            yield draw_image(shape, tuple(int(side * rng.uniform(1, 1.25)) for side in size), rng)

    _write(root, classes, (('train', train_images), ('val', val_images)), draw)


def draw_item(item: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw one image: an item of Fashion-MNIST, cut out, in random colors, before a random ground.

    Args:
        item (np.ndarray): Gray ``(28, 28)``, uint8, on black.
        size (tuple[int, int]): Height and width in pixels, at least 28.
        rng (np.random.Generator): The random generator.

    Returns:
        np.ndarray: RGB pixels ``(height, width, 3)``, uint8.
    """
    image = draw_ground(size, rng)
    side = int(rng.uniform(max(28, 0.6 * min(size)), min(size) + 1))
    top, left = (int(rng.integers(0, free - side + 1)) for free in size)
    gray, inside = cut_out(item, side, bool(rng.random() < 0.5))
    image[top:top + side, left:left + side][inside] = dye(gray, rng)[inside]
    return to_pixels(image, rng)


def make_item_folder(root: str, fashion_mnist: str | Path = 'data/fashion_mnist', num_classes: int = 10,
                     train_images: int = 120, val_images: int = 60, size: tuple[int, int] = (64, 64),
                     seed: int = 0) -> None:
    """Write a folder as :func:`make_image_folder` does, of items in color before a ground.

    The items are those of Fashion-MNIST's test set, which no network of the model zoo was trained on. No item is in two
    images.

    Args:
        root (str): The folder to make. It must not hold a train or val folder yet.
        fashion_mnist (str | Path): The folder with Fashion-MNIST's extracted files. Defaults to 'data/fashion_mnist'.
        num_classes (int): Number of classes, at most 10. Defaults to 10.
        train_images (int): Training images of each class. Defaults to 120.
        val_images (int): Validation images of each class. Defaults to 60.
        size (tuple[int, int]): Height and width in pixels, at least 28. Defaults to (64, 64).
        seed (int): Random seed. Defaults to 0.

    Raises:
        UserError: As :func:`make_image_folder`; if a class has fewer items than images are asked for, or Fashion-MNIST
            is not in ``fashion_mnist``.
    """
    _check(root, num_classes, len(FASHION_CLASSES), train_images, val_images, size, 28)
    files = [Path(fashion_mnist) / name for name in SPLITS['test']]
    if not all(file.is_file() for file in files):
        raise UserError(f'fashion_mnist={str(fashion_mnist)!r} lacks {files[0].name} or {files[1].name}: run '
                        '"make data" or tools/prepare_fashion_mnist.py, or name the folder that has them')
    items, labels = (read_idx(file) for file in files)
    rng = np.random.default_rng(seed)
    classes = sorted(FASHION_CLASSES)[:num_classes]
    left = {name: iter(rng.permutation(np.flatnonzero(labels == FASHION_CLASSES.index(name)))) for name in classes}
    least = min((labels == FASHION_CLASSES.index(name)).sum() for name in classes)
    if train_images + val_images > least:
        raise UserError(f'train_images={train_images} and val_images={val_images} must be at most {least} together, '
                        'because each item is drawn once: ask for fewer')

    def draw(name: str, count: int) -> Iterator[np.ndarray]:
        for _ in range(count):
            yield draw_item(items[next(left[name])], tuple(size), rng)

    _write(root, classes, (('train', train_images), ('val', val_images)), draw)


def _check(root: str, num_classes: int, top: int, train_images: int, val_images: int, size: tuple[int, int],
           least: int = 8) -> None:
    """Raise UserError for a number out of range, or a folder that holds images already."""
    for name, value, most in (('num_classes', num_classes, top), ('train_images', train_images, None),
                              ('val_images', val_images, None)):
        if not isinstance(value, int) or value < 1 or (most and value > most):
            raise UserError(f'{name} must be an integer from 1' + (f' to {most}' if most else '') + f', got {value!r}')
    if len(size) != 2 or min(size) < least:
        raise UserError(f'size must be a height and a width of at least {least} pixels, got {size!r}')
    for split in ('train', 'val'):
        if osp.exists(osp.join(root, split)):
            raise UserError(f'root={root!r} already has a {split!r} folder; give another one')


def _write(root: str, classes: list[str], splits: tuple[tuple[str, int], ...],
           draw: Callable[[str, int], Iterator[np.ndarray]]) -> None:
    """Write the images of each split and class, and the names of the classes."""
    for split, number in splits:
        for name in classes:
            folder = osp.join(root, split, name)
            os.makedirs(folder)
            for index, image in enumerate(draw(name, number)):
                Image.fromarray(image).save(osp.join(folder, f'{name}_{index:04d}.JPEG'), quality=90)
    with open(osp.join(root, 'classes.txt'), 'w') as file:
        file.write('\n'.join(classes) + '\n')
