"""Pictures of the position attention Φp."""

import cv2
import matplotlib
import numpy as np
import torch

from ..models import PerViT
from ..utils.errors import UserError, UserTypeError
from .mosaics import place_of_query

#: Pixels between maps, and above all maps for labels, if the side of a map is :data:`CELL` pixels.
_GAP, _MARGIN = 6, 34
#: Side of one head's map in pixels.
CELL = 56


@torch.no_grad()
def draw_position_maps(backbone: PerViT, query: tuple[int, int] | None = None, cell: int = CELL) -> np.ndarray:
    """Draw Φp of every block and head at one query: blocks left to right, heads top to bottom.

    Every map has the same colors, from 0 (dark) to 1 (bright), so maps can be compared. A red frame marks the query.

    Args:
        backbone (PerViT): With a ``position_cfg``.
        query (tuple[int, int], optional): Token (row, column) on the pretraining grid, or in the window of a block that
            has one. Defaults to None, the center.
        cell (int): Side of one head's map in pixels, at least 14. Labels and gaps grow with it. Defaults to 56.

    Returns:
        np.ndarray: RGB picture ``(height, width, 3)``, uint8.

    Raises:
        UserError: If the query lies outside the grid, ``cell`` is too small, or the backbone has no Φp.
        UserTypeError: If ``backbone`` is none, such as a classifier.
    """
    if not hasattr(backbone, 'position_grids'):
        raise UserTypeError(f'backbone must be a PerViT, got {type(backbone).__name__}: give model.backbone')
    if type(cell) is not int or cell < 14:
        raise UserError(f'cell must be a number of pixels of at least 14, got {cell!r}')
    columns: list[np.ndarray] = []
    grids = backbone.position_grids(backbone.patch_resolution)
    side = max(max(h, w) * max(1, cell // max(h, w)) for h, w in grids)
    for log_position, (h, w) in zip(backbone.position_terms(backbone.patch_resolution), grids):
        if log_position is None:
            raise UserError('this PerViT has no Φp to draw (position_cfg=None)')
        row, col = place_of_query(query, (h, w))
        maps = log_position.exp().reshape(-1, h, w, h, w)[:, row, col]
        # exp of a learned bias has no upper bound. A map with values above 1 is divided by its largest value.
        maps = (maps / maps.amax((1, 2), keepdim=True).clamp_min(1)).cpu().numpy()
        columns.append(np.concatenate([_draw_map(m, (row, col), cell, side) for m in maps]))
    return _label(np.concatenate(columns, axis=1), len(columns), cell)


def _draw_map(phi: np.ndarray, query: tuple[int, int], cell: int, side: int) -> np.ndarray:
    """Draw one map ``(h, w)`` as an RGB cell of ``side`` pixels and a gap. White fills up what a smaller map leaves."""
    h, w = phi.shape
    scale, gap = max(1, cell // max(h, w)), _GAP * cell // CELL
    picture = np.kron(phi, np.ones((scale, scale)))
    colors = matplotlib.colormaps['viridis'](picture)[..., :3]
    drawn = np.ascontiguousarray((255 * colors).round().astype(np.uint8))
    top, left = query[0] * scale, query[1] * scale
    cv2.rectangle(drawn, (left, top), (left + scale - 1, top + scale - 1), (255, 0, 0), max(1, cell // CELL))
    bottom, right = side - drawn.shape[0] + gap, side - drawn.shape[1] + gap
    return cv2.copyMakeBorder(drawn, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def _label(grid: np.ndarray, columns: int, cell: int) -> np.ndarray:
    """Write the block numbers above the columns, and what columns and rows are."""
    gap, margin = _GAP * cell // CELL, _MARGIN * cell // CELL
    picture = cv2.copyMakeBorder(grid, margin, 0, gap, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    font, size, weight, black = cv2.FONT_HERSHEY_SIMPLEX, 0.4 * cell / CELL, max(1, cell // CELL), (0, 0, 0)
    cv2.putText(picture, 'block (one row for each head)', (gap, 13 * cell // CELL), font, size, black, weight,
                cv2.LINE_AA)
    width = grid.shape[1] // columns
    for index in range(columns):
        place = (gap + index * width + width // 2 - 8 * cell // CELL, margin - gap)
        cv2.putText(picture, str(index), place, font, size, black, weight, cv2.LINE_AA)
    return picture
