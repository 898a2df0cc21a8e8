"""Pictures of what corresponds in several images. tools/analysis_tools/correspond.py runs this."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..analysis.correspondences import best_buddies, draw_pairs, pca_colors, select_pairs, token_centers
from ..analysis.cosegmentation import cosegment
from ..analysis.descriptors import log_bins
from ..analysis.propagation import draw_overlay
from ..utils.errors import UserError
from .dense_features import check_names, default_size, describe, make_folder, resize, write_picture
from .images import UnreadableImageError, read_image
from .inference import LEAST_SIDE
from .subject import Subject

#: White pixels between pictures.
_GAP = 8


def correspond(subject: Subject, paths: Sequence[Path], out_dir: str | Path, size: tuple[int, int] | None = None,
               block: int = -1, facet: str = 'key', pairs: int = 10, cosegmentation: bool = False) -> list[int]:
    """Match the first image with each other one, and write pictures.

    - ``pairs.png``: one row for each match, with some best buddies of log-binned descriptors.
    - ``pca.png``: the images, and the main components of their descriptors as colors.
    - With ``cosegmentation``: ``cosegmentation.png``, and for each image ``masks/NAME.png`` of its size. 255 marks what
      the images have in common.

    Args:
        subject (Subject): The model.
        paths (Sequence[Path]): Image files, at least two. Those that can't be read are left out.
        out_dir (str | Path): Output folder.
        size (tuple[int, int], optional): (h, w) in pixels to which images are resized. Defaults to None, see
            :func:`pervit_mm.apis.dense_features.default_size`.
        block (int): Defaults to -1, the last.
        facet (str): 'query', 'key', 'value' or 'token'. Defaults to 'key'.
        pairs (int): Most pairs that are drawn in a row. Defaults to 10.
        cosegmentation (bool): Whether to find what the images have in common. Defaults to False.

    Returns:
        list[int]: Best buddies in each match.

    Raises:
        UserError: If fewer than two images can be read, two have the same name, or an option doesn't fit the model.
            Also if some images can't be read, after the others are done.
    """
    check_names(paths)
    read, images, unreadable = [], [], []
    for path in paths:
        try:
            images.append(read_image(path))
            read.append(path)
        except UnreadableImageError as error:
            unreadable.append(str(error))
    if len(images) < 2:
        raise UserError(f'images: at least two that can be read are needed, got {len(images)}'
                        f'{"".join(f"; {error}" for error in unreadable)}')
    out_dir, size = make_folder(out_dir), size or default_size(subject, block)
    described = [describe(subject, image, size, (block, ), facet, cosegmentation) for image in images]
    maps = [descriptors[0] for (descriptors, ), _ in described]  # (H, W, C) each
    scale = max(1, -(-LEAST_SIDE // size[0]))
    views = [resize(image, (scale * size[0], scale * size[1]))[..., ::-1] for image in images]

    found, rows = [], []
    first = log_bins(maps[0][None])[0]
    for view, other in zip(views[1:], maps[1:]):
        other = log_bins(other[None])[0]
        buddies, similarity = best_buddies(first, other)
        found.append(len(buddies))
        chosen = select_pairs(first, other, buddies, similarity, pairs)
        points = [token_centers(tokens, first.shape[:2], view.shape[:2]) for tokens in chosen.T]
        rows.append(draw_pairs(views[0], view, *points))
    write_picture(_join(rows, 0), out_dir / 'pairs.png')
    colors = [_enlarge(part, views[0]) for part in pca_colors(maps)]
    write_picture(_join([_join(views, 1), _join(colors, 1)], 0), out_dir / 'pca.png')
    if cosegmentation:
        masks = cosegment(torch.stack(maps), torch.cat([seen for _, seen in described])).masks.numpy()
        tinted = [draw_overlay(view, _enlarge(mask, view), (0, 1)) for view, mask in zip(views, masks)]
        write_picture(_join(tinted, 1), out_dir / 'cosegmentation.png')
        for path, image, mask in zip(read, images, masks):
            write_picture(_enlarge(255 * mask.astype(np.uint8), image), out_dir / 'masks' / f'{path.stem}.png')
    if unreadable:
        raise UserError(f'images: {"; ".join(unreadable)}. Others done: {len(images)}, see {str(out_dir)!r}')
    return found


def _join(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Put RGB pictures one below the other (axis 0) or side by side (axis 1), with white between them."""
    parts = [pictures[0]]
    for picture in pictures[1:]:
        gap = list(picture.shape)
        gap[axis] = _GAP
        parts += [np.full(gap, 255, np.uint8), picture]
    return np.concatenate(parts, axis)


def _enlarge(grid: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Repeat the tokens ``(H, W, ...)`` to the size of a picture."""
    rows, cols = (np.arange(side) * tokens // side for side, tokens in zip(picture.shape[:2], grid.shape[:2]))
    return grid[rows][:, cols]
