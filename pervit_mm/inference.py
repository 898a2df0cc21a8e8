"""Predictions and pictures of a model by name, with the inferencer of its toolbox: what demo/image_demo.py runs."""
import glob
import json
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmcv.image import imread, imwrite
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from mmengine.utils import track_iter_progress

from .checkpoints import index_entries, package_root

#: What is an image in a folder.
SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
#: Scope to module, class and argument for the weights.
_INFERENCERS = dict(
    mmpretrain=('mmpretrain', 'ImageClassificationInferencer', 'pretrained'),
    mmdet=('mmdet.apis', 'DetInferencer', 'weights'),
    mmseg=('mmseg.apis', 'MMSegInferencer', 'weights'))


def find_images(source: str | Path) -> list[Path]:
    """List the images that a file, a folder or a glob pattern names.

    Args:
        source (str | Path): A file of any suffix; a folder, whose images are taken and whose subfolders are not; or a
            pattern, such as ``'shots/**'``, of which the images are taken.

    Returns:
        list[Path]: Sorted.

    Raises:
        FileNotFoundError: If there is no image.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    candidates = path.iterdir() if path.is_dir() else map(Path, glob.glob(str(source), recursive=True))
    found = [file for file in candidates if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not found:
        raise FileNotFoundError(f'images={str(source)!r}: there is no such file, no image in such a folder '
                                f'({", ".join(SUFFIXES)}), and nothing that the pattern meets')
    return sorted(found)


def published_models() -> dict[str, tuple[str, str]]:
    """List the models of ``model-index.yml`` that have weights.

    Returns:
        dict[str, tuple[str, str]]: Name to path of the config and ``pervit_mm://`` name of the weights.
    """
    root = package_root()
    return {entry['Name']: (str(root / entry['Config']), entry['Weights']) for entry in index_entries()
            if 'Weights' in entry}


class ImagePredictor:
    """One interface to the inferencers of MMPretrain, MMDetection and MMSegmentation.

    Args:
        model (str): Name of a published model, or path of a config.
        weights (str, optional): Checkpoint; needed with a config. Defaults to None, the published one.
        device (str, optional): Defaults to None, a GPU where there is one.

    Raises:
        ValueError: If there is no such model, if a config comes without weights, or if its ``default_scope`` is none
            of the three toolboxes.
    """

    def __init__(self, model: str, weights: str | None = None, device: str | None = None) -> None:
        models = published_models()
        if model in models:
            config, published = models[model]
        elif Path(model).is_file():
            config, published = model, None
        else:
            raise ValueError(f'model={model!r} is neither a config nor one of {", ".join(sorted(models)) or "(none)"}')
        weights = weights or published
        if weights is None:
            raise ValueError(f'model={model!r} is a config, which has no weights: give weights, the path of a '
                             'checkpoint')
        cfg = Config.fromfile(config)
        self.scope = cfg.get('default_scope')
        if self.scope not in _INFERENCERS:
            raise ValueError(f'default_scope={self.scope!r} of {config} must be one of {", ".join(_INFERENCERS)}')
        module, name, keyword = _INFERENCERS[self.scope]
        # An inferencer leaves its own scope behind as the default one, in which the next may not find its transforms.
        with DefaultScope.overwrite_default_scope(self.scope):
            self.inferencer = getattr(import_module(module), name)(
                cfg, **{keyword: weights}, device=device or get_device())
        self.inferencer.show_progress = False  # one bar over all images, not one for each

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, if the checkpoint holds them."""
        if self.scope == 'mmpretrain':
            return self.inferencer.classes
        return self.inferencer.model.dataset_meta.get('classes')

    def predict(self, image: str | Path, folder: str | Path, score_thr: float = 0.3) -> dict[str, Any]:
        """Predict one image and draw the prediction.

        Args:
            image (str | Path): Its file.
            folder (str | Path): Where pictures go, into ``vis``, and label maps of segmentors, into ``labels``.
            score_thr (float): Detections below it are neither drawn nor returned. Defaults to 0.3.

        Returns:
            dict: ``file`` and ``picture``; then of a classifier ``pred_label``, ``pred_class`` (if the checkpoint holds
            names), ``pred_score`` and ``pred_scores``; of a detector ``detections``, a list of ``label``, ``class``,
            ``score``, ``bbox`` (x1, y1, x2, y2 in pixels) and, of one with masks, ``mask`` (COCO's run lengths); of a
            segmentor ``label_map`` (a PNG of class indices) and ``shares`` (class to share of the pixels).

        Raises:
            ValueError: If the file cannot be read as an image.
        """
        image, picture = Path(image), Path(folder) / 'vis' / f'{Path(image).stem}.png'
        try:
            readable = imread(str(image)) is not None
        except (OSError, cv2.error):
            readable = False
        if not readable:
            raise ValueError(f"image '{image}' cannot be read as one: remove it, or name the others")
        with DefaultScope.overwrite_default_scope(self.scope):
            result = getattr(self, f'_predict_{self.scope}')(image, picture, score_thr)
        return dict(file=str(image), picture=str(picture), **result)

    def _predict_mmpretrain(self, image: Path, picture: Path, score_thr: float) -> dict[str, Any]:
        # Part by part: the whole names pictures otherwise, and shows a bar for each image.
        from mmpretrain.visualization import UniversalVisualizer
        data, = self.inferencer.preprocess([str(image)])
        samples = self.inferencer.forward(data)
        prediction, = self.inferencer.postprocess(samples, None)
        pixels = imread(str(image))[..., ::-1]
        UniversalVisualizer().visualize_cls(
            pixels, samples[0], classes=self.classes, draw_gt=False, out_file=str(picture),
            resize=224 if min(pixels.shape[:2]) < 224 else None)  # or the text doesn't fit
        return dict(prediction, pred_scores=prediction['pred_scores'].tolist())

    def _predict_mmdet(self, image: Path, picture: Path, score_thr: float) -> dict[str, Any]:
        output = self.inferencer(str(image), return_vis=True, pred_score_thr=score_thr)
        imwrite(output['visualization'][0][..., ::-1], str(picture))
        found = output['predictions'][0]
        masks = [dict(mask=mask) for mask in found['masks']] if 'masks' in found else [{}] * len(found['labels'])
        return dict(detections=[
            {'label': label, 'class': self._name(label), 'score': score, 'bbox': bbox, **mask}
            for label, score, bbox, mask in zip(found['labels'], found['scores'], found['bboxes'], masks)
            if score >= score_thr])

    def _predict_mmseg(self, image: Path, picture: Path, score_thr: float) -> dict[str, Any]:
        output = self.inferencer(str(image), return_vis=True)
        imwrite(output['visualization'][..., ::-1], str(picture))
        labels, counts = np.unique(output['predictions'].astype(np.uint8), return_counts=True)
        label_map = picture.parents[1] / 'labels' / picture.name
        imwrite(output['predictions'].astype(np.uint8), str(label_map))
        shares = {self._name(label): count / counts.sum() for label, count in zip(labels.tolist(), counts.tolist())}
        return dict(label_map=str(label_map), shares=shares)

    def _name(self, label: int) -> str:
        return str(label) if self.classes is None else self.classes[label]


def predict_images(predictor: ImagePredictor, images: list[Path], out_dir: str | Path, score_thr: float = 0.3
                   ) -> list[dict[str, Any]]:
    """Predict images one by one under a progress bar; write pictures and ``predictions.json``.

    Args:
        predictor (ImagePredictor): The model.
        images (list[Path]): Image files.
        out_dir (str | Path): Where everything goes; pictures into ``vis``.
        score_thr (float): See :meth:`ImagePredictor.predict`. Defaults to 0.3.

    Returns:
        list[dict]: What the JSON file holds, in the order of ``images``.

    Raises:
        ValueError: If two images have the same name and would share a picture, or one cannot be read.
    """
    twins = [stem for stem, count in Counter(path.stem for path in images).items() if count > 1]
    if twins:
        raise ValueError(f'images: {len(twins)} names such as {twins[0]!r} belong to several files, whose pictures '
                         'would overwrite each other; give one folder at a time, or rename')
    out_dir, results = Path(out_dir), []
    out_dir.mkdir(parents=True, exist_ok=True)
    try:
        # Given, since the default is the standard output of the time when MMEngine was imported.
        for path in track_iter_progress(images, file=sys.stdout):
            results.append(predictor.predict(path, out_dir, score_thr))
    finally:  # what there is, also where an image stops the run
        (out_dir / 'predictions.json').write_text(json.dumps(results, indent=1))
    return results
