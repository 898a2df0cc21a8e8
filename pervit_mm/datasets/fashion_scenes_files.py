"""The files of FashionScenes, for MMDetection and MMSegmentation."""
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from ..utils.errors import UserError, told
from .fashion_mnist import FASHION_MNIST_FILES, check_fashion_mnist
from .fashion_scenes import FASHION_CLASSES, SCENE_SIDES, SOURCES, FashionScenes, check_count, check_max_side

# Increase this number whenever the same settings give other files.
_FORMAT = 2
#: A folder with this file counts as scenes and may be replaced, so no other data set must have a file of this name.
MANIFEST = 'fashion_scenes.json'


def prepare_fashion_scenes(
        root: str | Path = 'data/fashion_scenes',
        fashion_mnist: str | Path = 'data/fashion_mnist',
        train: int = 3000,
        test: int = 400,
        seed: int = 0,
        files: Mapping[str, str] = FASHION_MNIST_FILES,
        log: Callable[[str], None] = print,
        *,
        val: int = 400,
        max_side: int = SCENE_SIDES[1]) -> bool:
    """Make sure that a folder holds the scenes: images, COCO's annotations and label maps of each split.

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
        val (int): Validation scenes, of the training items that no training scene has. So other training scenes give
            other validation scenes. 0 leaves them out. Defaults to 400.
        max_side (int): See :class:`FashionScenes`. Defaults to 224.

    Returns:
        bool: True if the set was made, False if it was there already.

    Raises:
        UserError: If a number is out of range, no item is left for validation, ``root`` holds something else,
            Fashion-MNIST is not whole in ``fashion_mnist``, or pycocotools is not installed.
    """
    counts = dict(train=check_count('train', train, 1), test=check_count('test', test, 1),
                  val=check_count('val', val, 0))
    settings = dict(format=_FORMAT, **counts, seed=check_count('seed', seed, 0), max_side=check_max_side(max_side),
                    fashion_mnist=dict(files))
    # If root is a link, it stays one, and the folder that it points to is replaced.
    root = Path(root).resolve()
    if _is_there(root, settings):
        log(f'The scenes are in {root}: {train} for training, {val} for validation, {test} for testing.')
        return False
    if root.exists() and not (root.is_dir() and ((root / MANIFEST).is_file() or not any(root.iterdir()))):
        raise UserError(f'root={str(root)!r} holds something else than scenes: name another folder, or remove it.')
    check_fashion_mnist(fashion_mnist, files)
    log(f'Drawing {train} scenes for training, {val} for validation and {test} for testing; 100 take about a second.')
    partial, replaced = (root.with_name(f'.{root.name}.{word}') for word in ('partial', 'replaced'))
    for folder in (partial, replaced):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        scenes = FashionScenes.from_folder(fashion_mnist, 'train', seed, max_side=max_side)
        used = _write_split(partial, scenes, train)
        _write_split(partial, FashionScenes.from_folder(fashion_mnist, 'test', seed, max_side=max_side), test)
        if val:
            left = np.setdiff1d(np.arange(len(scenes.images)), list(used))
            if not len(left):
                raise UserError(
                    f'train={train!r} must leave items for validation, and training scenes have all '
                    f'{len(scenes.images)} of them: make fewer, or leave validation out by val=0 (--val 0).')
            _write_split(partial, FashionScenes(scenes.images, scenes.labels, 'val', seed, left, max_side), val)
        (partial / MANIFEST).write_text(json.dumps(settings, indent=2) + '\n')
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


def _is_there(root: Path, settings: dict) -> bool:
    """Whether ``root`` holds the set with these settings, with no file missing."""
    try:
        if json.loads((root / MANIFEST).read_text()) != settings:
            return False
    except (OSError, ValueError):
        return False
    return all(
        (root / 'annotations' / f'{split}.json').is_file() and all(
            {f'{index:06d}.png' for index in range(settings[split])} <= {path.name for path in folder.glob('*.png')}
            for folder in (root / split, root / 'labels' / split)) for split in SOURCES if settings[split])


def _write_split(root: Path, scenes: FashionScenes, count: int) -> set[int]:
    """Write the first ``count`` scenes below ``root``: images, label maps, annotations. Return their items."""
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
    return {annotation['item'] for annotation in annotations}
