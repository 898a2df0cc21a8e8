"""Maps of attention as one picture: cells with a frame around the query."""
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np

from ..utils.errors import UserError

SCALES = ('map', 'unit')
#: Side of a cell and the gap between cells, in pixels.
CELL, GAP = 64, 6


def color_map(values: np.ndarray, low: float, high: float, name: str = 'viridis') -> np.ndarray:
    """Values ``(H, W)`` as RGB ``(H, W, 3)`` uint8, ``low`` dark and ``high`` bright."""
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return (255 * matplotlib.colormaps[name](scaled)[..., :3]).round().astype(np.uint8)


def map_cell(values: np.ndarray, scale: str = 'map', query: tuple[int, int] | None = None,
             cell: int = CELL) -> np.ndarray:
    """One map as a square cell.

    Args:
        values (np.ndarray): ``(H, W)``.
        scale (str): 'map': colors go from the least to the largest value of this map. 'unit': from 0 to 1, so that
            cells can be compared. Defaults to 'map'.
        query (tuple[int, int], optional): Token (row, column) that gets a red frame. Defaults to None.
        cell (int): Side in pixels. Defaults to :data:`CELL`.

    Returns:
        np.ndarray: RGB ``(cell, cell, 3)`` uint8; white where the grid is not square.

    Raises:
        UserError: If ``scale`` is unknown.
    """
    if scale not in SCALES:
        raise UserError(f'scale (--scale) must be one of {SCALES}, got {scale!r}')
    known = values[~np.isnan(values)]
    low, high = (0., 1.) if scale == 'unit' or not known.size else _range_of(known)
    colored = color_map(np.nan_to_num(values, nan=low), low, high)
    return image_cell(colored, query and (query, values.shape), cell)


def image_cell(rgb: np.ndarray, frame: tuple[tuple[int, int], tuple[int, int]] | None = None,
               cell: int = CELL, labels: bool = False) -> np.ndarray:
    """An image, or a colored map, as a square cell.

    Args:
        rgb (np.ndarray): ``(h, w, 3)`` uint8.
        frame (tuple, optional): (row, column) of a token and the grid (H, W); the token gets a red frame. Defaults to
            None.
        cell (int): Side in pixels. Defaults to :data:`CELL`.
        labels (bool): Whether colors stand for labels, which are not mixed where the image is made smaller. Defaults
            to False.

    Returns:
        np.ndarray: RGB ``(cell, cell, 3)`` uint8.
    """
    h, w = rgb.shape[:2]
    size = max(1, round(w * cell / max(h, w))), max(1, round(h * cell / max(h, w)))
    drawn = np.full((cell, cell, 3), 255, np.uint8)
    method = cv2.INTER_NEAREST if labels or max(h, w) <= cell else cv2.INTER_AREA
    drawn[:size[1], :size[0]] = cv2.resize(np.ascontiguousarray(rgb), size, interpolation=method)
    if frame:
        (row, col), (rows, cols) = frame
        top, bottom = (round(edge * size[1] / rows) for edge in (row, row + 1))
        left, right = (round(edge * size[0] / cols) for edge in (col, col + 1))
        cv2.rectangle(drawn, (left, top), (max(right - 1, left), max(bottom - 1, top)), (255, 0, 0), 1)
    return drawn


def _range_of(values: np.ndarray) -> tuple[float, float]:
    """Least and largest value; the rounding of a flat map would be stretched to full colors, so that has no end."""
    low, high = float(values.min()), float(values.max())
    return low, np.inf if high - low <= 1e-5 * abs(high) else high


def mosaic(rows: Sequence[Sequence[np.ndarray | None]], row_labels: Sequence[str] = (),
           column_labels: Sequence[str] = ()) -> np.ndarray:
    """Lay out cells of equal size, with labels.

    Args:
        rows (Sequence[Sequence[np.ndarray | None]]): RGB cells; None leaves a place white.
        row_labels (Sequence[str]): Written left of the rows. Defaults to none.
        column_labels (Sequence[str]): Written above the columns. Defaults to none.

    Returns:
        np.ndarray: RGB picture ``(height, width, 3)`` uint8.
    """
    cell = next(one for row in rows for one in row if one is not None).shape[0]
    columns = max(len(row) for row in rows)
    left = GAP + (max(map(len, row_labels)) * 7 if row_labels else 0)
    top = GAP + (14 if column_labels else 0)
    picture = np.full((top + len(rows) * (cell + GAP), left + columns * (cell + GAP), 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, one in enumerate(row):
            if one is not None:
                y, x = top + r * (cell + GAP), left + c * (cell + GAP)
                picture[y:y + cell, x:x + cell] = one
    for r, text in enumerate(row_labels):
        _write(picture, text, (GAP // 2, top + r * (cell + GAP) + cell // 2 + 4))
    for c, text in enumerate(column_labels):
        _write(picture, text, (left + c * (cell + GAP), 13))
    return picture


def legend(names: Sequence[str], colors: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Name colors, as lines to put below a picture.

    Args:
        names (Sequence[str]): At least one.
        colors (Sequence[Sequence[int]]): RGB of each, drawn as a square ahead of its name.
        width (int): Width in pixels. A name that is longer than a line is cut off.

    Returns:
        np.ndarray: RGB ``(height, width, 3)`` uint8.
    """
    side = 11
    step = side + 3 * GAP + 7 * max(map(len, names))
    columns = max(1, (width - GAP) // step)
    picture = np.full((GAP + -(-len(names) // columns) * (side + GAP), width, 3), 255, np.uint8)
    for number, (name, color) in enumerate(zip(names, colors)):
        y, x = GAP + number // columns * (side + GAP), GAP + number % columns * step
        picture[y:y + side, x:x + side] = color
        _write(picture, name, (x + side + GAP, y + side - 1))
    return picture


def _write(picture: np.ndarray, text: str, place: tuple[int, int]) -> None:
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)


def overlay(rgb: np.ndarray, heat: np.ndarray, cell: int = 2 * CELL) -> np.ndarray:
    """An image with a map ``(H, W)`` over it, scaled by itself, as a cell."""
    picture = image_cell(rgb, cell=cell)
    colored = image_cell(color_map(heat, *_range_of(heat), 'inferno'), cell=cell)
    return cv2.addWeighted(picture, 0.45, colored, 0.55, 0)


def place_of_query(query: tuple[int, int] | None, hw_shape: tuple[int, int]) -> tuple[int, int]:
    """The token (row, column) of a query, the center for None, or UserError if it lies outside the grid (H, W)."""
    h, w = hw_shape
    row, col = (h // 2, w // 2) if query is None else query
    if not (0 <= row < h and 0 <= col < w):
        raise UserError(f'query (--query) must be a token (row, column) of the {h} x {w} grid, got {query!r}')
    return row, col


def side_by_side(rgb: np.ndarray, maps: dict[str, np.ndarray], hw_shape: tuple[int, int],
                 query: tuple[int, int] | None = None, scale: str = 'map', sort: bool = False) -> np.ndarray:
    """Φp, Φa and Φc of one block at one query, as the paper lays them out: Φp on top, a row for each image below.

    Args:
        rgb (np.ndarray): Images ``(B, h, w, 3)`` uint8.
        maps (dict[str, np.ndarray]): ``attention`` and, where there are, ``content`` ``(B, nH, N, N)`` and ``position``
            ``(nH, N, N)``.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        query (tuple[int, int], optional): Token (row, column). Defaults to None, the center.
        scale (str): See :func:`map_cell`. Defaults to 'map'.
        sort (bool): Whether heads are sorted by how far they reach from this query, by Φp or else by Φa. Defaults to
            False.

    Returns:
        np.ndarray: RGB picture. Columns are the image, Φa of each head, then Φc of each head.

    Raises:
        UserError: If the query is outside the grid, or ``scale`` is unknown.
    """
    h, w = hw_shape
    row, col = place_of_query(query, hw_shape)
    at_query = {name: values[..., row * w + col, :].reshape(*values.shape[:-2], h, w) for name, values in maps.items()}
    heads = range(at_query['attention'].shape[1])
    if sort:
        reach = np.hypot(*np.meshgrid(np.arange(h) - row, np.arange(w) - col, indexing='ij'))
        by = at_query.get('position', at_query['attention'].mean(axis=0))
        heads = np.argsort((by * reach).sum(axis=(1, 2)) / by.sum(axis=(1, 2))).tolist()

    def cells(values: np.ndarray) -> list[np.ndarray]:
        return [map_cell(values[head], scale, (row, col)) for head in heads]

    rows, labels = [], []
    if 'position' in at_query:
        rows.append([None, *cells(at_query['position'])])
        labels.append('position')
    for number, image in enumerate(rgb[:len(at_query['attention'])]):
        line = [image_cell(image, ((row, col), hw_shape)), *cells(at_query['attention'][number])]
        rows.append(line + (cells(at_query['content'][number]) if 'content' in at_query else []))
        labels.append(f'image {number}')
    columns = ['image', *(f'mixed {head}' for head in heads)]
    columns += [f'content {head}' for head in heads] if 'content' in at_query else []
    return mosaic(rows, labels, columns)
