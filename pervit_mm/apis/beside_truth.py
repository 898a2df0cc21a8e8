"""What a segmentor says of labeled images, beside the truth. tools/analysis_tools/beside_truth.py runs this."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope

from ..analysis.mosaics import image_cell, legend, mosaic
from ..engine.launch import check_data
from ..utils.errors import UserError, told
from .images import read_image
from .inference import ImagePredictor

#: Data sets of a config that a picture can be of.
SPLITS = ('val', 'test')


def color_labels(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Color a label map.

    Args:
        labels (np.ndarray): ``(h, w)``, from 0 to 255.
        palette (Sequence[Sequence[int]]): RGB of each class.

    Returns:
        np.ndarray: RGB ``(h, w, 3)``, uint8. Labels of no class, such as 255 for pixels that don't count, are white.
    """
    colors = np.full((256, 3), 255, np.uint8)
    colors[:len(palette)] = palette
    return colors[labels]


@torch.no_grad()
def beside_truth(predictor: ImagePredictor, images: Sequence[int] = (0, 1, 2, 3), split: str = 'test',
                 cell: int = 224) -> np.ndarray:
    """Draw label maps of a segmentor beside the true ones.

    Args:
        predictor (ImagePredictor): A segmentor.
        images (Sequence[int]): Numbers of images in the data set. Defaults to the first four.
        split (str): 'val' or 'test': the data set of the config. Defaults to 'test'.
        cell (int): Longer side of each image in the picture, in pixels. Defaults to 224.

    Returns:
        np.ndarray: RGB ``(height, width, 3)``, uint8. Each row has an image, the truth and the prediction. Below are
        the colors of the classes that occur.

    Raises:
        UserError: If the model is no segmentor, an argument has another value, or the data set is not there, has no
            such image or no labels.
    """
    if predictor.scope != 'mmseg':
        raise UserError(f'model must be a segmentor, of the scope mmseg, got one of {predictor.scope}: '
                        'demo/image_demo.py draws the others')
    if split not in SPLITS:
        raise UserError(f'split (--split) must be one of {", ".join(SPLITS)}, got {split!r}')
    if type(cell) is not int or cell < 1:
        raise UserError(f'cell (--cell) must be a positive number of pixels, got {cell!r}')
    model, cfg = predictor.inferencer.model, predictor.cfg
    check_data(cfg, f'{split}_dataloader')
    with DefaultScope.overwrite_default_scope('mmseg'):
        with told(f'the {split} set of the config cannot be read', OSError, KeyError):
            dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        wrong = [image for image in images if not 0 <= image < len(dataset)]
        if wrong or not len(images):
            raise UserError(f'images (--images) must be numbers from 0 to {len(dataset) - 1}, got '
                            f'{wrong[0] if wrong else "none"}')
        rows, names, seen = [], [], set()
        for image in images:
            sample, = model.test_step(pseudo_collate([dataset[image]]))
            if 'gt_sem_seg' not in sample:
                raise UserError(f'the pipeline of {split}_dataloader reads no labels: add LoadAnnotations to it')
            maps = [part.data[0].cpu().numpy() for part in (sample.gt_sem_seg, sample.pred_sem_seg)]
            seen.update(*(np.unique(labels).tolist() for labels in maps))
            rows.append([image_cell(read_image(Path(sample.img_path))[..., ::-1], cell=cell),
                         *(image_cell(color_labels(labels, dataset.metainfo['palette']), cell=cell, labels=True)
                           for labels in maps)])
            names.append(Path(sample.img_path).stem)
    picture = mosaic(rows, names, ('image', 'truth', 'prediction'))
    named = [label for label in sorted(seen) if label < len(dataset.metainfo['classes'])]
    classes, palette = ([dataset.metainfo[key][label] for label in named] for key in ('classes', 'palette'))
    return np.vstack([picture, legend(classes, palette, picture.shape[1])])
