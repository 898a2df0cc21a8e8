"""Scenes of Fashion-MNIST items for detection and segmentation, which a small machine can train on.

Real items lie at random scales on textured grounds and overlap. The visible part of an item gives its mask and box, so
the annotation is exact. Training scenes have only items of Fashion-MNIST's training split, and test scenes only items
of its test split, so no item is in both.
"""
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..utils.errors import UserError, told
from .fashion_mnist import FASHION_MNIST_FILES, check_fashion_mnist
from .fashion_scenes_canvas import cut_out, draw_ground, dye, read_idx, to_pixels

#: Class names in the order of Fashion-MNIST's labels 0 to 9. In COCO's files and in label maps they count from 1.
FASHION_CLASSES = ('T-shirt', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot')
#: For each split, its files of images and of labels. The order of the splits is part of a scene's seed.
SPLITS = {
    'train': ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte'),
    'test': ('t10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte'),
}
#: Least and greatest height and width of a scene, and side of an item's square, in pixels. An item is 1 to 2 times as
#: large as in Fashion-MNIST, so a network trained on Fashion-MNIST has learned something about it.
SCENE_SIDES, ITEM_SIDES = (128, 224), (28, 56)
#: Least and greatest number of items in a scene. A scene has fewer if no place is found for an item.
NUM_ITEMS = (4, 12)
#: Least visible part of every item, whatever covers it: this share of its pixels, and this number of pixels.
MIN_VISIBLE_SHARE, MIN_VISIBLE_PIXELS = 0.4, 64
# How many places and scales are tried for an item before it is left out.
_TRIES = 20
# Increase this number whenever the same settings give other files.
_FORMAT = 2
# A folder with this file counts as scenes and may be replaced, so no other data set must have a file of this name.
_MANIFEST = 'fashion_scenes.json'


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
        split (str): ``'train'`` or ``'test'``.
        seed (int): At least 0. Defaults to 0.

    Raises:
        UserError: If an argument has another shape or value.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, split: str, seed: int = 0) -> None:
        if images.ndim != 3 or images.shape[1:] != (28, 28) or not len(images) or images.dtype != np.uint8:
            raise UserError(f'images must be uint8 of shape (N, 28, 28), got {images.dtype} of {images.shape}; '
                            'read_idx reads such from Fashion-MNIST.')
        if labels.shape != images.shape[:1] or labels.min() < 0 or labels.max() >= len(FASHION_CLASSES):
            raise UserError(f'labels must be {len(images)} classes from 0 to {len(FASHION_CLASSES) - 1}, one per '
                            f'image, got {labels.shape} of them, from {labels.min()} to {labels.max()}.')
        if split not in SPLITS:
            raise UserError(f'split must be one of {sorted(SPLITS)}, got {split!r}.')
        self.images, self.labels, self.split, self.seed = images, labels, split, check_count('seed', seed, 0)

    @classmethod
    def from_folder(cls, fashion_mnist: str | Path, split: str, seed: int = 0) -> 'FashionScenes':
        """Read the items of one split only.

        Args:
            fashion_mnist (str | Path): The folder with the extracted files.
            split (str): ``'train'`` or ``'test'``.
            seed (int): At least 0. Defaults to 0.

        Returns:
            FashionScenes: The scenes of that split.

        Raises:
            UserError: If there is no such split, or a file is damaged.
            FileNotFoundError: If a file is missing.
        """
        if split not in SPLITS:
            raise UserError(f'split must be one of {sorted(SPLITS)}, got {split!r}.')
        return cls(*(read_idx(Path(fashion_mnist) / name) for name in SPLITS[split]), split, seed)

    def scene(self, index: int) -> Scene:
        """Draw one scene.

        Args:
            index (int): The scene's index, at least 0.

        Returns:
            Scene: The pixels and the items.

        Raises:
            UserError: If ``index`` is below 0 or no integer.
        """
        rng = np.random.default_rng([self.seed, list(SPLITS).index(self.split), check_count('index', index, 0)])
        size = rng.integers(SCENE_SIDES[0], SCENE_SIDES[1] + 1, 2)
        image = draw_ground(size, rng)
        owners = np.zeros(size, np.uint8)
        items, areas = [], []
        for _ in range(rng.integers(NUM_ITEMS[0], NUM_ITEMS[1] + 1)):
            item, flip = int(rng.integers(len(self.images))), bool(rng.random() < 0.5)
            for _ in range(_TRIES):
                # Uniform in the logarithm: as many items between 28 and 40 px as between 40 and 56 px.
                side = round(np.exp(rng.uniform(*np.log(ITEM_SIDES))))
                top, left = rng.integers(0, size - side + 1)
                window = np.s_[top:top + side, left:left + side]
                gray, inside = cut_out(self.images[item], side, flip)
                trial = owners.copy()
                trial[window][inside] = len(items) + 1
                total = np.array([*areas, inside.sum()])
                seen = np.bincount(trial.ravel(), minlength=len(total) + 1)[1:]
                if (seen >= np.maximum(MIN_VISIBLE_SHARE * total, MIN_VISIBLE_PIXELS)).all():
                    image[window][inside] = dye(gray, rng)[inside]
                    owners = trial
                    items.append(item)
                    areas.append(int(total[-1]))
                    break
        return Scene(to_pixels(image, rng), owners,
                     tuple(int(self.labels[item]) for item in items), tuple(items), tuple(areas))


def prepare_fashion_scenes(
        root: str | Path = 'data/fashion_scenes',
        fashion_mnist: str | Path = 'data/fashion_mnist',
        train: int = 3000,
        test: int = 400,
        seed: int = 0,
        files: Mapping[str, str] = FASHION_MNIST_FILES,
        log: Callable[[str], None] = print) -> bool:
    """Make sure that a folder holds the scenes: images, COCO's annotations and label maps of both splits.

    The folder holds ``<split>/000000.png``, ``annotations/<split>.json``, ``labels/<split>/000000.png`` (one channel: 0
    is the ground, 1 to 10 are the classes) and ``fashion_scenes.json`` with the settings, which is written last. The
    set is made beside ``root`` and moved to ``root`` when it is complete. So an interrupted run leaves ``root`` as it
    was, and the next run starts again. Never run this twice at the same time.

    Args:
        root (str | Path): The folder to make. A set with other settings is replaced. Defaults to
            ``'data/fashion_scenes'``.
        fashion_mnist (str | Path): The folder with Fashion-MNIST's extracted files. Defaults to
            ``'data/fashion_mnist'``.
        train (int): Training scenes. Defaults to 3000.
        test (int): Test scenes. Defaults to 400.
        seed (int): At least 0. Defaults to 0.
        files (Mapping[str, str]): File names and md5 sums of Fashion-MNIST.
        log (Callable): Takes a sentence on what is done. Defaults to ``print``.

    Returns:
        bool: True if the set was made, False if it was there already.

    Raises:
        UserError: If a number is out of range, ``root`` holds something else, Fashion-MNIST is not whole in
            ``fashion_mnist``, or pycocotools is not installed.
    """
    counts = dict(train=check_count('train', train, 1), test=check_count('test', test, 1))
    settings = dict(format=_FORMAT, **counts, seed=check_count('seed', seed, 0), fashion_mnist=dict(files))
    # If root is a link, it stays one, and the folder that it points to is replaced.
    root = Path(root).resolve()
    if _is_there(root, settings):
        log(f'The scenes are in {root}: {train} for training, {test} for testing.')
        return False
    if root.exists() and not (root.is_dir() and ((root / _MANIFEST).is_file() or not any(root.iterdir()))):
        raise UserError(f'root={str(root)!r} holds something else than scenes: name another folder, or remove it.')
    check_fashion_mnist(fashion_mnist, files)
    log(f'Drawing {train} scenes for training and {test} for testing; this takes about half a minute.')
    partial, replaced = (root.with_name(f'.{root.name}.{word}') for word in ('partial', 'replaced'))
    for folder in (partial, replaced):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        for split, count in counts.items():
            _write_split(partial, FashionScenes.from_folder(fashion_mnist, split, seed), count)
        (partial / _MANIFEST).write_text(json.dumps(settings, indent=2) + '\n')
        try:
            if root.exists():
                os.rename(root, replaced)
            os.rename(partial, root)
        except OSError as error:  # for example if root is a mount point
            raise UserError(f'root={str(root)!r} cannot be put in place ({error}): name another folder') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    log(f'The scenes are in {root} now.')
    return True


def check_count(name: str, value: int, least: int) -> int:
    """Return ``value`` if it is an integer of at least ``least``, or raise UserError with ``name``."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise UserError(f'{name} must be an integer from {least} on, got {value!r}.')
    return int(value)


def _is_there(root: Path, settings: dict) -> bool:
    """Whether ``root`` holds the set with these settings, with no file missing."""
    try:
        if json.loads((root / _MANIFEST).read_text()) != settings:
            return False
    except (OSError, ValueError):
        return False
    return all(
        (root / 'annotations' / f'{split}.json').is_file() and all(
            {f'{index:06d}.png' for index in range(settings[split])} <= {path.name for path in folder.glob('*.png')}
            for folder in (root / split, root / 'labels' / split)) for split in SPLITS)


def _write_split(root: Path, scenes: FashionScenes, count: int) -> None:
    """Write the first ``count`` scenes of a split below ``root``: images, label maps, annotations."""
    for folder in (scenes.split, 'annotations', f'labels/{scenes.split}'):
        with told(f'the folder {str(root / folder)!r} cannot be made'):
            (root / folder).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in range(count):
        scene, name = scenes.scene(index), f'{index:06d}.png'
        height, width = scene.owners.shape
        images.append(dict(id=index, file_name=name, width=width, height=height))
        annotations += scene.annotations(index, len(annotations) + 1)
        for path, pixels in ((root / scenes.split / name, scene.image[..., ::-1]),
                             (root / 'labels' / scenes.split / name, scene.label_map())):
            # OpenCV writes BGR. It reports a full disk only by its return value.
            if not cv2.imwrite(str(path), pixels):
                raise UserError(f'{path} cannot be written: is there space left?')
    categories = [dict(id=number, name=name) for number, name in enumerate(FASHION_CLASSES, 1)]
    (root / 'annotations' / f'{scenes.split}.json').write_text(
        json.dumps(dict(
            info=dict(description=f'Scenes of Fashion-MNIST items, {scenes.split} split, seed {scenes.seed}'),
            images=images, annotations=annotations, categories=categories)))
