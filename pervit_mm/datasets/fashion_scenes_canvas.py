"""Parts of a scene of Fashion-MNIST items: textured grounds, and items cut out of their black squares."""
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ..utils.errors import UserError

#: Pixels with values up to this one are no part of an item. Fashion-MNIST was scaled down, which left a faint haze
#: around items. Outlines are cleanest at 16: they have 0.03 loose specks of up to 3 pixels per item. At 8 it would be
#: 0.14, at 32 it would be 0.12, and 2.9 if every value above 0 counted. The item itself loses little: 2% of its pixels
#: are between 8 and 16.
HAZE = 16


def read_idx(path: str | Path) -> np.ndarray:
    """Read an idx file of bytes, as Fashion-MNIST's are.

    Args:
        path (str | Path): The extracted file.

    Returns:
        np.ndarray: uint8, with the shape that the file states: ``(N, 28, 28)`` for images, ``(N,)`` for labels.

    Raises:
        UserError: If the file is no idx file of bytes, or is shorter or longer than it states.
    """
    data = Path(path).read_bytes()
    # An idx file begins with two zeros, the code of unsigned bytes, the number of dimensions, and each one's length.
    start = 4 + 4 * data[3] if data[:3] == b'\0\0\x08' and len(data) > 3 else 0
    shape = np.frombuffer(data[4:start], '>u4').tolist() if 0 < start <= len(data) else None
    if shape is None or len(data) - start != np.prod(shape):
        raise UserError(f'path={str(path)!r} is no whole, extracted idx file of bytes: tools/prepare_fashion_mnist.py '
                        'puts Fashion-MNIST in place.')
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _along(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Position of each pixel along a random direction: ``(H, W)``, in pixels."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[:size[0], :size[1]]
    return np.cos(angle) * y + np.sin(angle) * x


def _wave(position: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A wave over positions in pixels, from -1 to 1: period 8 to 48 px, form between a sine and hard bands."""
    period, phase = np.exp(rng.uniform(np.log(8), np.log(48))), rng.uniform(0, 2 * np.pi)
    sharpness = rng.uniform(1, 8)
    return np.tanh(sharpness * np.sin(2 * np.pi * position / period + phase)) / np.tanh(sharpness)


def _clouds(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Smooth noise with cells of 5 to 40 px, plus noise with cells of half that size, half as strong."""
    cell = np.exp(rng.uniform(np.log(5), np.log(40)))
    clouds = np.zeros(size, np.float32)
    for width, strength in ((cell, 1), (cell / 2, 0.5)):
        coarse = rng.random([int(side / width) + 2 for side in size], dtype=np.float32)
        clouds += strength * cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return clouds


def _gradient(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A linear gradient in one direction."""
    return _along(size, rng)


def _stripes(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Parallel stripes."""
    return _wave(_along(size, rng), rng)


def _checker(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A checkerboard of two waves, whose fields are seldom square."""
    return _wave(_along(size, rng), rng) * _wave(_along(size, rng), rng)


def _rings(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Rings around a point inside the canvas."""
    y, x = np.ogrid[:size[0], :size[1]]
    return _wave(np.hypot(y - rng.uniform(0, size[0]), x - rng.uniform(0, size[1])), rng)


#: The kinds of texture. Each takes a height and width and a generator, and returns a pattern ``(H, W)`` of any range.
TEXTURES: dict[str, Callable[[tuple[int, int], np.random.Generator], np.ndarray]] = {
    'checker': _checker,
    'clouds': _clouds,
    'gradient': _gradient,
    'rings': _rings,
    'stripes': _stripes,
}


def draw_ground(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw a ground: a random color with two random textures over it.

    Values of a texture differ by at most 45 of 255 in each color channel, so an item's outline is seldom lost in it.

    Args:
        size (tuple[int, int]): Height and width in pixels.
        rng (np.random.Generator): The random generator.

    Returns:
        np.ndarray: RGB ``(H, W, 3)``, float32, mostly but not always between 0 and 255.
    """
    size = (int(size[0]), int(size[1]))
    ground = np.empty((*size, 3), np.float32)
    ground[:] = rng.uniform(40, 215, 3)
    for kind in rng.choice(list(TEXTURES), 2):
        pattern = TEXTURES[kind](size, rng)
        pattern = (pattern - pattern.min()) / np.ptp(pattern) - 0.5
        contrast = rng.uniform(15, 45) * rng.uniform(0.3, 1, 3) * rng.choice([-1, 1], 3)
        ground += pattern[..., None] * contrast
    return ground


def cut_out(item: np.ndarray, side: int, flip: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Cut an item out of its black square, and enlarge it.

    The outline runs half-way between pixels of the item and pixels of the square. The square's black is removed from
    the edge of the enlarged item, because a dark rim around every item would show a network where the items are.

    Args:
        item (np.ndarray): Gray ``(28, 28)``, uint8, on black.
        side (int): Side of the enlarged square in pixels, at least 28.
        flip (bool): Whether left and right are exchanged. Defaults to False.

    Returns:
        tuple[np.ndarray, np.ndarray]: Gray values ``(side, side)``, float32, 0 to 1, valid only inside the outline; and
        which pixels are inside it, ``(side, side)``, bool.
    """
    if flip:
        item = item[:, ::-1]
    own = (item > HAZE).astype(np.float32)
    share = cv2.resize(own, (side, side), interpolation=cv2.INTER_LINEAR)
    gray = cv2.resize(own * item / 255, (side, side), interpolation=cv2.INTER_LINEAR)
    inside = share >= 0.5
    # Inside, division by the share of own pixels removes the black. Outside, the share may be 0; the value is unused.
    return gray / np.maximum(share, 0.5), inside


def to_pixels(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Finish an image: noise of a random strength, the same on items and ground, and whole values.

    Otherwise a network could find enlarged items by their smoothness.

    Args:
        image (np.ndarray): RGB ``(H, W, 3)``, float32, about 0 to 255.
        rng (np.random.Generator): The random generator.

    Returns:
        np.ndarray: ``(H, W, 3)``, uint8.
    """
    image = image + rng.uniform(1, 5) * rng.standard_normal(image.shape, np.float32)
    return image.round().clip(0, 255).astype(np.uint8)


def dye(gray: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give a gray item random colors: black becomes a dark color, white a brighter one.

    Args:
        gray (np.ndarray): Any shape, 0 to 1.
        rng (np.random.Generator): The random generator.

    Returns:
        np.ndarray: RGB between 0 and 255, in the shape of ``gray`` with a last dimension of 3 added.
    """
    dark, bright = rng.uniform(0, 60, 3), rng.uniform(80, 255, 3)
    return dark + gray[..., None] * (bright - dark)
