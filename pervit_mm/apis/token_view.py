"""Φp, Φc and Φa of every block at one token of an image: recorded once, drawn for any token."""
from dataclasses import dataclass
from pathlib import Path

import cv2
import jinja2
import numpy as np
import torch

from ..analysis import BlockRecord, capture
from ..analysis.charts import NAMES
from ..analysis.mosaics import color_map, image_cell, place_of_query
from ..utils.errors import UserError
from .report.page import png_address
from .subject import Subject

#: Longer side of the picture of a small image, and side of a map, in pixels.
SIDE, CELL = 448, 96
#: What a row of maps is, beside its Φ.
_MEANINGS = dict(position='position', content='content', attention='mixture')
_MAPS = '''
<style>
.maps { display: grid; gap: 4px; align-items: center; overflow-x: auto }
.maps img { width: 100%; margin: 0; image-rendering: pixelated; border-radius: 2px }
.maps .block { text-align: center; font-size: .85rem } .maps .factor { line-height: 1.2; padding-right: .5rem }
.maps .factor b { font-size: 1.15rem } .maps .factor small { display: block }
.maps .bar { align-self: stretch; display: flex; flex-direction: column; justify-content: space-between;
  padding-left: 1.1rem; font-size: .75rem; background: left / .8rem 100% no-repeat }
</style>
<div class="maps" style="grid-template-columns: max-content repeat({{ blocks }}, minmax(3rem, 7.5rem)) max-content">
<span></span>{% for index in range(blocks) %}<span class="block">block {{ index }}</span>{% endfor %}<span></span>
{% for row in rows %}
<span class="factor"><b>{{ row.name }}</b><small>{{ row.meaning }}</small></span>
{% for cell in row.cells %}<img src="{{ cell | png }}" alt="{{ row.name }} of block {{ loop.index0 }}">{% endfor %}
<span class="bar" style="background-image: url({{ bar | png }})"><span>{{ '%.2g' | format(row.high) }}</span><span
>0</span></span>
{% endfor %}
</div>
<p style="margin-top: .5rem">{{ caption }}</p>
'''


@dataclass
class TokenView:
    """What a classifier sees in one image.

    Attributes:
        rgb (np.ndarray): The image as the network gets it, ahead of normalization, ``(h, w, 3)`` uint8; gray three
            times.
        gray (bool): Whether the network gets one channel.
        scores (dict[str, float]): Score of each class, from 0 to 1, by its name or else its number.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
        maps (list[dict[str, np.ndarray]]): For each block ``attention`` Φa ``(nH, N, N)``, rows queries. A PerViT with
            both factors also has ``content`` Φc and ``position`` Φp. Rows of Φa and Φc sum to one. Φp is as it was
            learned, without this.
    """
    rgb: np.ndarray
    gray: bool
    scores: dict[str, float]
    hw_shape: tuple[int, int]
    maps: list[dict[str, np.ndarray]]

    @property
    def heads(self) -> int:
        """Number of heads."""
        return len(self.maps[0]['attention'])


def _maps_of(block: BlockRecord) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
    """Grid and maps of a block's only image."""
    maps = {name: values[0] for name, values in block.maps().items() if name != 'position'}
    if block.has_position:
        maps['position'] = block.log_position.exp()
    return block.hw_shape, {name: values.float().cpu().numpy() for name, values in maps.items()}


@torch.no_grad()
def view_image(subject: Subject, image: str | Path) -> TokenView:
    """Classify an image and record the attention of every block.

    Args:
        subject (Subject): A classifier with tokens on one grid.
        image (str | Path): The image file, of any size, in color or gray.

    Returns:
        TokenView: Arrays on the CPU.

    Raises:
        UserError: If the file can't be read as an image, or the model is no classifier, has no tokens, or has several
            grids.
    """
    loaded = subject.load([image])
    with capture(subject.model, each=_maps_of) as record:
        scores = subject.logits(subject.normalize(loaded.pixels))[0].softmax(dim=0).tolist()
    grids, maps = zip(*record.blocks)
    if len({*grids}) > 1:
        raise UserError(f'model={subject.name!r} has blocks on the grids {sorted({*grids})}, and a token belongs to '
                        'one: give a model whose grid never shrinks, such as PerViT')
    names = subject.classes or map(str, range(len(scores)))
    return TokenView(loaded.rgb()[0], loaded.pixels.shape[1] == 1, dict(zip(names, scores)), grids[0], list(maps))


def draw_image(view: TokenView, token: tuple[int, int]) -> np.ndarray:
    """Draw the image as the network gets it, with the grid of tokens and a red frame around one of them.

    Args:
        view (TokenView): Of :func:`view_image`.
        token (tuple[int, int]): (row, column).

    Returns:
        np.ndarray: RGB ``(h, w, 3)`` uint8, enlarged by the whole number that brings the longer side nearest below
        :data:`SIDE`.

    Raises:
        UserError: If the token is outside the grid.
    """
    row, col = place_of_query(token, view.hw_shape)
    scale = _scale(view)
    picture = view.rgb.repeat(scale, axis=0).repeat(scale, axis=1)
    tops, lefts = _edges(view, picture.shape[:2])
    lines = np.zeros(picture.shape[:2], bool)
    lines[tops[1:-1]] = lines[:, lefts[1:-1]] = True
    picture[lines] = picture[lines] // 2 + 64  # seen on black and on white
    corners = (lefts[col], tops[row]), (lefts[col + 1] - 1, tops[row + 1] - 1)
    return cv2.rectangle(picture, *corners, (255, 0, 0), 3)


def _scale(view: TokenView) -> int:
    """How many times the picture is larger than the image."""
    return max(1, SIDE // max(view.rgb.shape[:2]))


def token_at(view: TokenView, x: int, y: int) -> tuple[int, int]:
    """The token (row, column) at a place of the picture of :func:`draw_image`, in pixels from its top left corner."""
    scale = _scale(view)
    tops, lefts = _edges(view, [scale * side for side in view.rgb.shape[:2]])
    # A browser may round a click at the border to just outside.
    return tuple(int(np.clip(np.searchsorted(edges, place, 'right') - 1, 0, len(edges) - 2))
                 for edges, place in ((tops, y), (lefts, x)))


def _edges(view: TokenView, size: tuple[int, int]) -> list[np.ndarray]:
    """Edges of the tokens' rows and columns in a picture of size (h, w), in pixels."""
    return [np.linspace(0, side, count + 1).round().astype(int) for side, count in zip(size, view.hw_shape)]


def maps_at(view: TokenView, token: tuple[int, int], head: int | None = None) -> dict[str, np.ndarray]:
    """Maps of every block at one token.

    Args:
        view (TokenView): Of :func:`view_image`.
        token (tuple[int, int]): (row, column), the query.
        head (int, optional): The head. Defaults to None, the mean of all heads.

    Returns:
        dict[str, np.ndarray]: ``(blocks, H, W)`` for each of ``position``, ``content`` and ``attention`` that the
        model has.

    Raises:
        UserError: If the token is outside the grid, or there is no such head.
    """
    if head is not None and head not in range(view.heads):
        raise UserError(f'head must be None or a number from 0 to {view.heads - 1}, got {head!r}')
    h, w = view.hw_shape
    row, col = place_of_query(token, view.hw_shape)
    return {name: np.stack([(maps[name].mean(axis=0) if head is None else maps[name][head])[row * w + col]
                            for maps in view.maps]).reshape(-1, h, w)
            for name in NAMES if name in view.maps[0]}


def maps_page(view: TokenView, token: tuple[int, int], head: int | None = None) -> str:
    """Draw :func:`maps_at` as HTML: a row with a color bar for each factor, a column for each block.

    Colors go from 0 to the largest value of the row; to 1 for Φp, and to its largest value if that is above 1. A red
    frame marks the token.

    Args:
        view (TokenView): Of :func:`view_image`.
        token (tuple[int, int]): (row, column), the query.
        head (int, optional): The head. Defaults to None, the mean of all heads.

    Returns:
        str: HTML that needs no script and no other file.

    Raises:
        UserError: As :func:`maps_at`.
    """
    rows = []
    for name, values in maps_at(view, token, head).items():
        high = max(float(values.max()), float(name == 'position'))
        cells = [image_cell(color_map(block, 0, high), (token, view.hw_shape), CELL) for block in values]
        rows.append(dict(name=NAMES[name], meaning=_MEANINGS[name], cells=cells, high=high))
    environment = jinja2.Environment(autoescape=True)
    environment.filters['png'] = png_address
    return environment.from_string(_MAPS).render(
        blocks=len(view.maps), rows=rows, bar=color_map(np.linspace(1, 0, CELL)[:, None], 0, 1),
        caption=_caption(view, token, head))


def _caption(view: TokenView, token: tuple[int, int], head: int | None) -> str:
    """What the maps show, in sentences."""
    (h, w), (height, width) = view.hw_shape, view.rgb.shape[:2]
    text = (f'Token in row {token[0]}, column {token[1]}, {"mean of all heads" if head is None else f"head {head}"}. '
            f'The network sees {width} × {height} {"gray " if view.gray else ""}pixels as {w} × {h} tokens. Colors go '
            'from 0 to the number at the end of the row. ')
    return text + ('Φp does not depend on the image: another image leaves its row as it is.'
                   if 'position' in view.maps[0] else 'This model has no Φp.')
