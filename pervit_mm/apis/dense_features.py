"""Descriptors of image files at any size, for tools/analysis_tools/correspond.py and propagate.py."""
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmcv.image import bgr2gray, imresize, imwrite
from torch import Tensor

from ..analysis.capture import capture
from ..analysis.descriptors import FACETS, check_facet, dense_descriptors, saliency
from ..analysis.recorders import find_recorders
from ..utils.errors import UserError, told
from .configs import input_shape
from .subject import Subject

#: Rows and columns of tokens at the default size, as in Amir et al. 2021: 224 px at 8 px a token.
GRID = 28


def check_names(paths: Sequence[Path]) -> None:
    """Raise UserError if two files have the same name up to the suffix, because their results would be one file."""
    twins = [stem for stem, count in Counter(path.stem for path in paths).items() if count > 1]
    if twins:
        raise UserError(f'images: {len(twins)} names such as {twins[0]!r} belong to several files, whose results would '
                        'overwrite each other: rename the files, or name each once')


def make_folder(out_dir: str | Path) -> Path:
    """Make the output folder, or raise UserError."""
    with told(f'out_dir={str(out_dir)!r} (--out) cannot be made'):
        Path(out_dir).mkdir(parents=True, exist_ok=True)
    return Path(out_dir)


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Write a mask ``(h, w)`` or an RGB picture ``(h, w, 3)``, or raise UserError."""
    with told(f"'{path}' cannot be written"):
        imwrite(picture[..., ::-1] if picture.ndim == 3 else picture, str(path))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image to (h, w): by area where it shrinks, else bilinear."""
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    return imresize(image, (size[1], size[0]), interpolation='area' if shrinks else 'bilinear')


def default_size(subject: Subject, block: int = -1) -> tuple[int, int]:
    """Image size (h, w) in pixels at which a block has :data:`GRID` rows and columns of tokens."""
    channels, h, w = input_shape(subject.cfg)
    with torch.no_grad(), capture(subject.model, attention=False, features=True,
                                  each=lambda record: record.hw_shape) as record:
        subject.backbone(torch.zeros(1, channels, h, w, device=subject.device))
    rows, cols = _pick(record.blocks, block)
    return h * GRID // rows, w * GRID // cols


@torch.no_grad()
def describe(subject: Subject, image: np.ndarray, size: tuple[int, int], blocks: Sequence[int] = (-1, ),
             facet: str = 'key', attention: bool = False) -> tuple[list[Tensor], Tensor | None]:
    """Descriptors of one image.

    PerViT has more tokens in a larger image than it was trained with. What distance means there is said by
    ``distance_scale`` of its config: with 'grid' the reach of Φp grows with the grid, with 'fixed' it stays the same in
    tokens.

    Args:
        subject (Subject): The model.
        image (np.ndarray): BGR ``(h, w, 3)``, uint8. A model of gray images gets it in gray.
        size (tuple[int, int]): (h, w) in pixels, to which the image is resized.
        blocks (Sequence[int]): Blocks, negative ones counted from the end. Defaults to (-1, ).
        facet (str): See :func:`pervit_mm.analysis.dense_descriptors`. Defaults to 'key'.
        attention (bool): Whether the saliency is wanted. Defaults to False.

    Returns:
        tuple[list[Tensor], Tensor | None]: Descriptors ``(1, H, W, C)`` of each of ``blocks``, and the saliency
        ``(1, H, W)`` by the attention of the first of them.

    Raises:
        UserError: If the model has no such block or facet, or no attention and it is asked for.
    """
    check_facet(facet)
    if (attention or facet != 'token') and not all(
            recorder.has_attention for recorder in find_recorders(subject.backbone)):
        raise UserError(f'model={subject.name!r} has the backbone {type(subject.backbone).__name__}, which has no '
                        'attention: give facet token (--facet token), without co-segmentation')

    def keep(record):
        return dense_descriptors(record, facet), saliency(record.attention, record.hw_shape) if attention else None

    shown = resize(image, size)
    shown = bgr2gray(shown, keepdim=True) if input_shape(subject.cfg)[0] == 1 else shown
    pixels = torch.from_numpy(np.ascontiguousarray(shown.transpose(2, 0, 1))).float()[None].to(subject.device)
    with capture(subject.model, attention=attention, each=keep, **{FACETS[facet]: True}) as record:
        subject.backbone(subject.normalize(pixels))
    found = [_pick(record.blocks, block) for block in blocks]
    return [descriptors for descriptors, _ in found], found[0][1]


def _pick(blocks: list, block: int):
    """The entry of a block, or UserError."""
    if not -len(blocks) <= block < len(blocks):
        raise UserError(f'block (--block) must be from {-len(blocks)} to {len(blocks) - 1}, because the model has '
                        f'{len(blocks)} blocks, got {block}')
    return blocks[block]
