"""Short videos of Fashion-MNIST items with the mask of each frame, to follow objects by.

Items of FashionScenes move, grow or shrink and pass over one another, on a ground that stands still or drifts. A
sequence is drawn in milliseconds, so there are no files.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .fashion_scenes import ITEM_SIDES, SOURCES, FashionScenes, all_visible, check_count, read_items
from .fashion_scenes_canvas import cut_out, draw_ground, dye, to_pixels

#: Frames of a sequence, and their height and width in pixels.
FRAMES, SIDE = 24, 112
#: Least and greatest number of items.
NUM_ITEMS = (2, 4)
#: Least way of an item from the first frame to the last, and greatest way of the ground along each axis, in pixels.
LEAST_WAY, GREATEST_DRIFT = 28, 32
# How many items, places and scales are tried for each item.
_TRIES = 20


@dataclass(frozen=True)
class ItemSequence:
    """A video. Its items are in the order in which they were placed, later ones on top.

    Attributes:
        frames (np.ndarray): RGB pixels ``(F, h, w, 3)``, uint8.
        owners (np.ndarray): The visible item at each pixel, ``(F, h, w)``, uint8: 0 is the ground, k the k-th item.
        items (tuple[int, ...]): Each item's index in its split of Fashion-MNIST.
        drifts (bool): Whether the ground drifts.
    """

    frames: np.ndarray
    owners: np.ndarray
    items: tuple[int, ...]
    drifts: bool


class FashionSequences(FashionScenes):
    """Endlessly many sequences of the items of one split.

    A sequence depends on the seed, the split, the items and its index, but on no other sequence. Sequences of an odd
    index have a ground that drifts.

    Args:
        images, labels, split, seed, items: See :class:`FashionScenes`. Sequences have one size, so there is no
            ``max_side``.

    Raises:
        UserError: If an argument has another shape or value.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, split: str, seed: int = 0,
                 items: Sequence[int] | None = None) -> None:
        super().__init__(images, labels, split, seed, items)

    @classmethod
    def from_folder(cls, fashion_mnist: str | Path, split: str, seed: int = 0,
                    items: Sequence[int] | None = None) -> 'FashionSequences':
        """Read the items of one split.

        Args:
            fashion_mnist (str | Path): The folder with the extracted files.
            split, seed, items: See :class:`FashionScenes`. 'val' must be told its items.

        Returns:
            FashionSequences: The sequences of that split.

        Raises:
            UserError: If there is no such split, 'val' has no items, or a file is damaged.
            FileNotFoundError: If a file is missing.
        """
        return cls(*read_items(fashion_mnist, split, items), split, seed, items)

    def sequence(self, index: int) -> ItemSequence:
        """Draw one sequence.

        In the first frame every item is inside and visible as in :class:`FashionScenes`. Later it may be hidden. Its
        center moves on a line, by 28 px or more in all. Its side changes steadily, between 28 and 56 px. Its colors
        stay.

        Args:
            index (int): The sequence's index, at least 0.

        Returns:
            ItemSequence: :data:`FRAMES` frames of :data:`SIDE` x :data:`SIDE` pixels.

        Raises:
            UserError: If ``index`` is below 0 or no integer.
        """
        # The last number keeps sequences apart from scenes of the same seed.
        rng = np.random.default_rng([self.seed, list(SOURCES).index(self.split), check_count('index', index, 0), 1])
        frames, drifts = _draw_grounds(index % 2 == 1, rng), index % 2 == 1
        owners = np.zeros(frames.shape[:3], np.uint8)
        items, areas = [], []
        for _ in range(rng.integers(NUM_ITEMS[0], NUM_ITEMS[1] + 1)):
            for _ in range(_TRIES):
                item = int(self.items[rng.integers(len(self.items))])
                flip, color = bool(rng.random() < 0.5), int(rng.integers(2**32))
                # In the logarithm, so that the item grows by the same factor from frame to frame.
                sides = np.exp(np.linspace(*rng.uniform(*np.log(ITEM_SIDES), 2), FRAMES)).round().astype(int)
                corners = _draw_way(sides, rng)
                _, inside = cut_out(self.images[item], sides[0], flip)
                trial = owners[0].copy()
                trial[_window(corners[0], sides[0])][inside] = len(items) + 1
                total = np.array([*areas, inside.sum()])
                if all_visible(trial, total):
                    items.append(item)
                    areas.append(int(total[-1]))
                    for frame, owner, corner, side in zip(frames, owners, corners, sides):
                        gray, inside = cut_out(self.images[item], side, flip)
                        window = _window(corner, side)
                        frame[window][inside] = dye(gray, np.random.default_rng(color))[inside]
                        owner[window][inside] = len(items)
                    break
        return ItemSequence(to_pixels(frames, rng), owners, tuple(items), drifts)


def _window(corner: np.ndarray, side: int) -> tuple[slice, slice]:
    """Rows and columns of an item's square."""
    return np.s_[corner[0]:corner[0] + side, corner[1]:corner[1] + side]


def _draw_grounds(drifts: bool, rng: np.random.Generator) -> np.ndarray:
    """The ground of each frame, ``(F, h, w, 3)``, float32: a window into a larger ground."""
    ground = draw_ground((SIDE + 2 * GREATEST_DRIFT, ) * 2, rng)
    way = rng.uniform(-GREATEST_DRIFT, GREATEST_DRIFT, 2) * drifts
    corners = (GREATEST_DRIFT + np.linspace(0, 1, FRAMES)[:, None] * way).round().astype(int)
    return np.stack([ground[_window(corner, SIDE)] for corner in corners])


def _draw_way(sides: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Upper left corners (row, column) of an item's square in each frame, ``(F, 2)``: the square stays inside."""
    while True:
        start, end = (rng.uniform(side / 2, SIDE - side / 2, 2) for side in (sides[0], sides[-1]))
        if np.hypot(*(end - start)) >= LEAST_WAY:
            break
    centers = np.linspace(start, end, len(sides))
    return (centers - sides[:, None] / 2).round().clip(0, SIDE - sides[:, None]).astype(int)
