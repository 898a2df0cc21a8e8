"""Scenes of Fashion-MNIST items for detection and segmentation, which a small machine can train on.

Real items lie at random scales on textured grounds and overlap. The visible part of an item gives its mask and box, so
the annotation is exact. No item is in two of the splits: test scenes have items of Fashion-MNIST's test split, training
scenes have items of its training split, and validation scenes have those of it that no training scene has.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..utils.errors import UserError
from .fashion_scenes_canvas import cut_out, draw_ground, dye, read_idx, to_pixels

#: Class names in the order of Fashion-MNIST's labels 0 to 9. In COCO's files and in label maps they count from 1.
FASHION_CLASSES = ('T-shirt', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot')
#: For each split of Fashion-MNIST, its files of images and of labels.
SPLITS = {
    'train': ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte'),
    'test': ('t10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte'),
}
#: For each split of the scenes, the one of Fashion-MNIST that its items are from. The order is part of a scene's seed.
SOURCES = {'train': 'train', 'test': 'test', 'val': 'train'}
#: Least and greatest height and width of a scene, and side of an item's square, in pixels. An item is 1 to 2 times as
#: large as in Fashion-MNIST, so a network trained on Fashion-MNIST has learned something about it.
SCENE_SIDES, ITEM_SIDES = (128, 224), (28, 56)
#: The greatest side may be raised up to this one.
MOST_SIDE = 1024
#: Least and greatest number of items in a scene of these sides. A scene has fewer if no place is found for an item.
NUM_ITEMS = (4, 12)
#: Least visible part of every item, whatever covers it: this share of its pixels, and this number of pixels.
MIN_VISIBLE_SHARE, MIN_VISIBLE_PIXELS = 0.4, 64
# How many places and scales are tried for an item before it is left out.
_TRIES = 20


@dataclass(frozen=True)
class Scene:
    """One scene. Its items are in the order in which they were placed, later ones on top.

    Attributes:
        image (np.ndarray): RGB pixels ``(H, W, 3)``, uint8.
        owners (np.ndarray): The visible item at each pixel, ``(H, W)``, uint8: 0 is the ground, k the k-th item.
        classes (tuple[int, ...]): Each item's class, 0 to 9.
        items (tuple[int, ...]): Each item's index in its split of Fashion-MNIST.
        areas (tuple[int, ...]): Each item's number of pixels, including covered ones.
    """

    image: np.ndarray
    owners: np.ndarray
    classes: tuple[int, ...]
    items: tuple[int, ...]
    areas: tuple[int, ...]

    def label_map(self) -> np.ndarray:
        """Return the class at each pixel.

        Returns:
            np.ndarray: ``(H, W)``, uint8: 0 is the ground, 1 to 10 are :data:`FASHION_CLASSES`.
        """
        return np.array([0, *(number + 1 for number in self.classes)], np.uint8)[self.owners]

    def annotations(self, image_id: int, first_id: int = 1) -> list[dict]:
        """Describe the visible parts of the items in COCO's format.

        Args:
            image_id (int): The scene's ``id`` among COCO's ``images``.
            first_id (int): The first item's ``id``; the others count on from it. It must not be 0, which COCO's
                evaluation takes for "matched with nothing". Defaults to 1.

        Returns:
            list[dict]: For each item ``id``, ``image_id``, ``category_id`` (1 to 10), ``segmentation`` (compressed
            run lengths), ``area`` (pixels), ``bbox`` (x, y, width, height in pixels, around whole pixels), ``iscrowd``
            (0) and ``item`` (its index in Fashion-MNIST's split).

        Raises:
            UserError: If pycocotools is not installed.
        """
        try:
            from pycocotools import mask as run_lengths
        except ImportError as error:
            raise UserError('Masks are written by pycocotools, which is not installed: it comes with mmdet, or run '
                            '"pip install pycocotools".') from error
        found = []
        for place, (number, item) in enumerate(zip(self.classes, self.items)):
            mask = self.owners == place + 1
            encoded = run_lengths.encode(np.asfortranarray(mask, np.uint8))
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            top, left = int(rows[0]), int(columns[0])
            found.append(dict(
                id=first_id + place, image_id=image_id, category_id=number + 1, iscrowd=0, item=item,
                segmentation=dict(size=list(mask.shape), counts=encoded['counts'].decode('ascii')),
                area=int(mask.sum()), bbox=[left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]))
        return found


class FashionScenes:
    """Endlessly many scenes of one split. A scene depends on the seed, the split and its index, but on no other scene.

    The same versions of numpy and OpenCV draw the same pixels. Other versions may not.

    Args:
        images (np.ndarray): All items of the split, ``(N, 28, 28)``, uint8, on black.
        labels (np.ndarray): Their classes, ``(N,)``, 0 to 9.
        split (str): ``'train'``, ``'test'`` or ``'val'``.
        seed (int): At least 0. Defaults to 0.
        items (Sequence[int], optional): Indices of the items that scenes may have. Defaults to None, all.
        max_side (int): Greatest height and width of a scene in pixels, 128 to 1024. Larger scenes have more items, in
            proportion to their mean area. Defaults to 224.

    Raises:
        UserError: If an argument has another shape or value.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, split: str, seed: int = 0,
                 items: Sequence[int] | None = None, max_side: int = SCENE_SIDES[1]) -> None:
        if images.ndim != 3 or images.shape[1:] != (28, 28) or not len(images) or images.dtype != np.uint8:
            raise UserError(f'images must be uint8 of shape (N, 28, 28), got {images.dtype} of {images.shape}; '
                            'read_idx reads such from Fashion-MNIST.')
        if labels.shape != images.shape[:1] or labels.min() < 0 or labels.max() >= len(FASHION_CLASSES):
            raise UserError(f'labels must be {len(images)} classes from 0 to {len(FASHION_CLASSES) - 1}, one per '
                            f'image, got {labels.shape} of them, from {labels.min()} to {labels.max()}.')
        _check_split(split)
        self.images, self.labels, self.split, self.seed = images, labels, split, check_count('seed', seed, 0)
        self.items = np.arange(len(images)) if items is None else np.asarray(items)
        if (self.items.ndim != 1 or not len(self.items) or self.items.dtype.kind not in 'iu' or self.items.min() < 0
                or self.items.max() >= len(images)):
            raise UserError(f'items must be at least one index from 0 to {len(images) - 1}, as integers, got '
                            f'{items!r}.')
        self.max_side = check_max_side(max_side)
        share = ((SCENE_SIDES[0] + max_side) / sum(SCENE_SIDES))**2
        self.num_items = tuple(round(number * share) for number in NUM_ITEMS)

    @classmethod
    def from_folder(cls, fashion_mnist: str | Path, split: str, seed: int = 0, max_side: int = SCENE_SIDES[1],
                    items: Sequence[int] | None = None) -> 'FashionScenes':
        """Read the items of one split.

        Args:
            fashion_mnist (str | Path): The folder with the extracted files.
            split, seed, max_side, items: See :class:`FashionScenes`. 'val' must be told its items.

        Returns:
            FashionScenes: The scenes of that split.

        Raises:
            UserError: If there is no such split, 'val' has no items, or a file is damaged.
            FileNotFoundError: If a file is missing.
        """
        return cls(*read_items(fashion_mnist, split, items), split, seed, items, max_side)

    def scene(self, index: int) -> Scene:
        """Draw one scene.

        Args:
            index (int): The scene's index, at least 0.

        Returns:
            Scene: The pixels and the items.

        Raises:
            UserError: If ``index`` is below 0 or no integer.
        """
        rng = np.random.default_rng([self.seed, list(SOURCES).index(self.split), check_count('index', index, 0)])
        size = rng.integers(SCENE_SIDES[0], self.max_side + 1, 2)
        image = draw_ground(size, rng)
        owners = np.zeros(size, np.uint8)
        items, areas = [], []
        for _ in range(rng.integers(self.num_items[0], self.num_items[1] + 1)):
            item, flip = int(self.items[rng.integers(len(self.items))]), bool(rng.random() < 0.5)
            for _ in range(_TRIES):
                # Uniform in the logarithm: as many items between 28 and 40 px as between 40 and 56 px.
                side = round(np.exp(rng.uniform(*np.log(ITEM_SIDES))))
                top, left = rng.integers(0, size - side + 1)
                window = np.s_[top:top + side, left:left + side]
                gray, inside = cut_out(self.images[item], side, flip)
                trial = owners.copy()
                trial[window][inside] = len(items) + 1
                total = np.array([*areas, inside.sum()])
                if all_visible(trial, total):
                    image[window][inside] = dye(gray, rng)[inside]
                    owners = trial
                    items.append(item)
                    areas.append(int(total[-1]))
                    break
        return Scene(to_pixels(image, rng), owners,
                     tuple(int(self.labels[item]) for item in items), tuple(items), tuple(areas))


def read_items(fashion_mnist: str | Path, split: str, items: Sequence[int] | None = None) -> list[np.ndarray]:
    """Read the images and labels of Fashion-MNIST that a split of the scenes draws from.

    Args:
        fashion_mnist (str | Path): The folder with the extracted files.
        split (str): A split of the scenes.
        items (Sequence[int], optional): The items that the scenes may have. Defaults to None, all. 'val' is drawn from
            the images of 'train', so with all of them it would show items of training scenes.

    Returns:
        list[np.ndarray]: Images ``(N, 28, 28)`` and labels ``(N,)``, uint8.

    Raises:
        UserError: If there is no such split, 'val' has no items, or a file is damaged.
        FileNotFoundError: If a file is missing.
    """
    _check_split(split)
    if split == 'val' and items is None:
        raise UserError("items must name the items of split 'val', got None: it shares its images with 'train', so "
                        'give those that no training scene has, as prepare_fashion_scenes does')
    return [read_idx(Path(fashion_mnist) / name) for name in SPLITS[SOURCES[split]]]


def all_visible(owners: np.ndarray, areas: np.ndarray) -> bool:
    """Whether enough of every item is seen.

    Args:
        owners (np.ndarray): The visible item at each pixel, ``(H, W)``: 0 is the ground, k the k-th item.
        areas (np.ndarray): Each item's number of pixels, including covered ones, ``(K,)``.
    """
    seen = np.bincount(owners.ravel(), minlength=len(areas) + 1)[1:]
    return bool((seen >= np.maximum(MIN_VISIBLE_SHARE * areas, MIN_VISIBLE_PIXELS)).all())


def check_count(name: str, value: int, least: int) -> int:
    """Return ``value`` if it is an integer of at least ``least``, or raise UserError with ``name``."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise UserError(f'{name} must be an integer from {least} on, got {value!r}.')
    return int(value)


def _check_split(split: str) -> None:
    """Raise UserError unless it is a split of the scenes."""
    if split not in SOURCES:
        raise UserError(f'split must be one of {sorted(SOURCES)}, got {split!r}.')


def check_max_side(value: int) -> int:
    """Return the greatest side of a scene, or raise UserError."""
    if check_count('max_side', value, SCENE_SIDES[0]) > MOST_SIDE:
        raise UserError(f'max_side must be an integer from {SCENE_SIDES[0]} to {MOST_SIDE}, in pixels, got {value!r}.')
    return int(value)
