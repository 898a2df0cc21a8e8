"""A small folder of JPEG images in ImageNet's layout, for tests and trial runs."""
import os
import os.path as osp
from collections.abc import Callable

import numpy as np
from PIL import Image

from ..utils.errors import UserError

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
    for name, value, top in (('num_classes', num_classes, len(SHAPES)),
                             ('train_images', train_images, None), ('val_images', val_images, None)):
        if not isinstance(value, int) or value < 1 or (top and value > top):
            raise UserError(f'{name} must be an integer from 1' +
                             (f' to {top}' if top else '') + f', got {value!r}')
    if len(size) != 2 or min(size) < 8:
        raise UserError(f'size must be a height and a width of at least 8 pixels, got {size!r}')
    for split in ('train', 'val'):
        if osp.exists(osp.join(root, split)):
            raise UserError(f'root={root!r} already has a {split!r} folder; give another one')
    rng = np.random.default_rng(seed)
    classes = sorted(SHAPES)[:num_classes]
    for split, number in (('train', train_images), ('val', val_images)):
        for shape in classes:
            folder = osp.join(root, split, shape)
            os.makedirs(folder)
            for index in range(number):
                real = tuple(int(side * rng.uniform(1, 1.25)) for side in size)
                Image.fromarray(draw_image(shape, real, rng)).save(
                    osp.join(folder, f'{shape}_{index:04d}.JPEG'), quality=90)
    with open(osp.join(root, 'classes.txt'), 'w') as file:
        file.write('\n'.join(classes) + '\n')
