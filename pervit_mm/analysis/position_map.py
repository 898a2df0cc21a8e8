"""Pictures of learned position-based attention."""

import cv2
import matplotlib
import numpy as np
import torch

from ..models import PerViT

_CELL = 56  # pixels of one head's map
_GAP, _MARGIN = 6, 34


@torch.no_grad()
def draw_position_maps(backbone: PerViT, query: tuple[int, int] | None = None) -> np.ndarray:
    """Draw Φp of every block and head at one query: blocks left to right, heads top to bottom.

    Colour runs from 0 (dark) to 1 (bright) in every map alike, so maps can be compared; a red frame marks the query.

    Args:
        backbone (PerViT): With a ``position_cfg``.
        query (tuple[int, int], optional): Token (row, column) on the pretraining grid. Defaults to None, the centre.

    Returns:
        np.ndarray: RGB picture ``(height, width, 3)``, uint8.

    Raises:
        ValueError: If the query lies outside the grid, or the backbone has no Φp.
    """
    columns: list[np.ndarray] = []
    grids = backbone.position_grids(backbone.patch_resolution)
    side = max(max(h * _scale(h, w), w * _scale(h, w)) for h, w in grids)
    for term, (h, w) in zip(backbone.log_positions(backbone.patch_resolution), grids):
        if term is None:
            raise ValueError('this PerViT has no Φp to draw (position_cfg=None)')
        row, col = (h // 2, w // 2) if query is None else query
        if not (0 <= row < h and 0 <= col < w):
            raise ValueError(f'query must be a token (row, column) of the {h} x {w} grid, got {query!r}')
        maps = term.exp().reshape(-1, h, w, h, w)[:, row, col]
        # A learned bias, unlike Φp, has no upper bound: relative to its largest value it is comparable too.
        maps = (maps / maps.amax((1, 2), keepdim=True).clamp_min(1)).cpu().numpy()
        columns.append(np.concatenate([_draw_map(m, (row, col), side) for m in maps]))
    return _label(np.concatenate(columns, axis=1), len(columns))


def _scale(h: int, w: int) -> int:
    """Pixels for each token."""
    return max(1, _CELL // max(h, w))


def _draw_map(phi: np.ndarray, query: tuple[int, int], side: int) -> np.ndarray:
    """One map ``(h, w)`` as an RGB cell of ``side`` pixels and a gap, white where windows are smaller than that."""
    h, w = phi.shape
    scale = _scale(h, w)
    picture = np.kron(phi, np.ones((scale, scale)))
    colours = matplotlib.colormaps['viridis'](picture)[..., :3]
    cell = np.ascontiguousarray((255 * colours).round().astype(np.uint8))
    top, left = query[0] * scale, query[1] * scale
    cv2.rectangle(cell, (left, top), (left + scale - 1, top + scale - 1), (255, 0, 0), 1)
    bottom, right = side - cell.shape[0] + _GAP, side - cell.shape[1] + _GAP
    return cv2.copyMakeBorder(cell, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def _label(grid: np.ndarray, columns: int) -> np.ndarray:
    """Write block numbers above the columns and what the axes are."""
    picture = cv2.copyMakeBorder(grid, _MARGIN, 0, _GAP, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    font, black = cv2.FONT_HERSHEY_SIMPLEX, (0, 0, 0)
    cv2.putText(picture, 'block (one row for each head)', (_GAP, 13), font, 0.4, black, 1, cv2.LINE_AA)
    width = grid.shape[1] // columns
    for index in range(columns):
        place = (_GAP + index * width + width // 2 - 8, _MARGIN - 6)
        cv2.putText(picture, str(index), place, font, 0.4, black, 1, cv2.LINE_AA)
    return picture
