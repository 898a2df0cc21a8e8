"""Masks of a video from the mask of its first frame. tools/analysis_tools/propagate.py runs this."""
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmcv.image import imread
from mmengine.utils import track_iter_progress

from ..analysis.propagation import PROTOCOLS, draw_overlay, fuse_features, propagate_mask
from ..utils.errors import UserError
from .dense_features import check_names, default_size, describe, make_folder, write_picture
from .images import UnreadableImageError, check_image_size, read_image
from .subject import Subject


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask of labels.

    Args:
        path (str | Path): A gray or palette PNG, whose numbers are the labels. A palette's colors don't matter.

    Returns:
        np.ndarray: ``(h, w)``, uint8, or uint16 if a number is above 255.

    Raises:
        UserError: If the file is no such image.
    """
    check_image_size(Path(path))
    try:
        mask = imread(str(path), 'unchanged', backend='pillow')  # OpenCV would turn a palette into colors
    except (OSError, SyntaxError, ValueError) as error:  # of Pillow's decoders
        raise UserError(f"mask '{path}' cannot be read as an image ({type(error).__name__}): give a gray or palette "
                        'PNG') from error
    if mask.ndim != 2 or mask.dtype.kind not in 'biu' or mask.min() < 0 or mask.max() > 65535:
        raise UserError(f"mask '{path}' must have one whole number from 0 to 65535 in each pixel, got shape "
                        f'{mask.shape} of {mask.dtype}: save it as a gray or palette PNG')
    return mask.astype(np.uint16 if mask.max() > 255 else np.uint8)


def propagate(subject: Subject, frames: Sequence[Path], mask: str | Path, out_dir: str | Path,
              size: tuple[int, int] | None = None, blocks: Sequence[int] = (-1, ), protocol: str = 'dino') -> int:
    """Propagate a mask through frames, and write ``masks/NAME.png`` and ``overlays/NAME.png`` for each.

    Args:
        subject (Subject): The model.
        frames (Sequence[Path]): Image files in order, all of one size. Those that can't be read are left out.
        mask (str | Path): Mask of the first frame, see :func:`read_mask`.
        out_dir (str | Path): Output folder.
        size (tuple[int, int], optional): (h, w) in pixels to which frames are resized. Defaults to None, see
            :func:`pervit_mm.apis.dense_features.default_size`.
        blocks (Sequence[int]): One block whose tokens are compared; or two, that are fused, the first one weighted with
            1.75. Defaults to (-1, ), the last.
        protocol (str): A key of :data:`pervit_mm.analysis.PROTOCOLS`. Defaults to 'dino'.

    Returns:
        int: Frames that were written.

    Raises:
        UserError: If the first frame or the mask can't be read, the mask has another size or too many labels, frames
            differ in size, two have the same name, or a block isn't in the model. Also if other frames can't be read,
            after the rest is done.
    """
    if len(blocks) not in (1, 2):
        raise UserError(f'blocks (--block) must be one or two, got {list(blocks)}')
    if protocol not in PROTOCOLS:
        raise UserError(f'protocol (--protocol) must be one of {tuple(PROTOCOLS)}, got {protocol!r}')
    if not frames:
        raise UserError('frames must hold at least the first one, got none besides the mask: give a folder of images')
    check_names(frames)
    indices, first = read_mask(mask), read_image(frames[0])
    if indices.shape != first.shape[:2]:
        raise UserError(f"mask '{mask}' must have the size of the first frame '{frames[0]}', {first.shape[1]} x "
                        f'{first.shape[0]} pixels, got {indices.shape[1]} x {indices.shape[0]}')
    out_dir, size = make_folder(out_dir), size or default_size(subject, blocks[0])
    read, features, unreadable = [], [], []
    for path in track_iter_progress(list(frames), file=sys.stdout):
        try:
            frame = read_image(path)
        except UnreadableImageError as error:
            unreadable.append(str(error))
            continue
        if frame.shape != first.shape:
            raise UserError(f'frames must have the size of the first, {first.shape[1]} x {first.shape[0]} pixels, got '
                            f"{frame.shape[1]} x {frame.shape[0]} in '{path}'")
        found, _ = describe(subject, frame, size, blocks, 'token')
        features.append(fuse_features(*found) if len(found) == 2 else found[0])
        read.append(path)
    values = np.unique(indices)
    masks = propagate_mask(torch.cat(features), indices, PROTOCOLS[protocol])
    for path, found in zip(read, masks):
        write_picture(found, out_dir / 'masks' / f'{path.stem}.png')
        frame = read_image(path)  # again, because all frames of a video may not fit in memory
        write_picture(draw_overlay(frame[..., ::-1], found, values), out_dir / 'overlays' / f'{path.stem}.png')
    if unreadable:
        raise UserError(f'frames: {"; ".join(unreadable)}. Others done: {len(read)}, see {str(out_dir)!r}')
    return len(read)
