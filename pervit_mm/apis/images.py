"""Image files that a user names: which they are, and what they hold."""
import glob
from pathlib import Path

import cv2
import numpy as np
from mmcv.image import imread

from ..utils.errors import UserError
from ..utils.image_header import size_within

#: Suffixes of the files that count as images in a folder or for a pattern.
SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
#: What is read at most: pixels, and how much longer one side may be than the other.
MAX_PIXELS, MAX_ASPECT = 100_000_000, 32


class UnreadableImageError(UserError):
    """A file is no image, or a broken one. The caller may go on with other files."""


def find_images(source: str | Path) -> list[Path]:
    """List the images that a file, a folder or a glob pattern names.

    Args:
        source (str | Path): A file with any suffix; a folder, whose images are taken without those of its subfolders;
            or a pattern such as ``'shots/**'``, whose matches are taken if they are images.

    Returns:
        list[Path]: Sorted.

    Raises:
        UserError: If there is no image.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    candidates = path.iterdir() if path.is_dir() else map(Path, glob.glob(str(source), recursive=True))
    found = [file for file in candidates if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not found:
        raise UserError(f'images={str(source)!r}: there is no such file, no image in such a folder '
                                f'({", ".join(SUFFIXES)}), and nothing that the pattern meets')
    return sorted(found)


def check_image_size(image: Path) -> None:
    """Raise UnreadableImageError for an image that would take gigabytes to decode, resize or draw.

    The size comes from the file's header, so nothing is decoded. Pipelines bring the shorter side to some hundred
    pixels, so a strip would get a side of many thousands.
    """
    try:
        size = size_within(image, MAX_PIXELS)
    except ValueError as error:
        raise UnreadableImageError(f"image '{image}' is too large ({error}): make it smaller") from error
    if size is None:
        return  # OpenCV may know it, and bounds what it decodes by itself
    width, height = size
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImageError(f"image '{image}' has {width} x {height} pixels, and its longer side may be at most "
                                   f'{MAX_ASPECT} times the shorter one: cut it into parts')


def read_image(image: Path) -> np.ndarray:
    """Read an image file.

    Args:
        image (Path): The file.

    Returns:
        np.ndarray: ``(h, w, 3)`` uint8, BGR.

    Raises:
        UnreadableImageError: If it is none, a broken one, or would take gigabytes.
    """
    check_image_size(image)
    try:
        pixels = imread(str(image))
    except (OSError, cv2.error):
        pixels = None
    if pixels is None:
        raise UnreadableImageError(f"image '{image}' cannot be read as one: leave it out, or give another file")
    return pixels
