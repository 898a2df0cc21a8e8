"""The size of an image by its header, ahead of decoding it."""
import warnings
from pathlib import Path

from PIL import Image


def size_within(path: str | Path, max_pixels: int) -> tuple[int, int] | None:
    """Size of an image, if it has at most so many pixels.

    Args:
        path (str | Path): Its file. Nothing but the header is read.
        max_pixels (int): Width times height, at most.

    Returns:
        tuple[int, int]: (width, height); None for a file that Pillow doesn't know as an image.

    Raises:
        ValueError: If it has more, with the number.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Pillow's own remark on large images
            with Image.open(path) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:  # beyond twice Pillow's own limit
        raise ValueError(f'{error}; at most {max_pixels:,} pixels are read') from error
    except Exception:  # broken files fail in whatever way they like
        return None
    if width * height > max_pixels:
        raise ValueError(f'it has {width} x {height} pixels, and at most {max_pixels:,} are read')
    return width, height
