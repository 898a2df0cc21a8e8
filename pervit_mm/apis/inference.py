"""Predictions and pictures of a model by name, with the inferencer of its toolbox: what demo/image_demo.py runs."""
import glob
import json
import sys
from collections import Counter
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.image import imread, imwrite
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmengine.utils import track_iter_progress

from ..checkpoints import check_checkpoint, index_entries, package_root, read_checkpoint
from ..utils.errors import UserError
from .configs import load_config

#: What is an image in a folder.
SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
#: Shorter side, in pixels, of the pictures of detections and label maps. Smaller images are enlarged for them.
LEAST_SIDE = 384
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
        UserError: If there is no image.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    candidates = path.iterdir() if path.is_dir() else map(Path, glob.glob(str(source), recursive=True))
    found = [file for file in candidates if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not found:
        raise UserError(f'images={str(source)!r}: there is no such file, no image in such a folder '
                                f'({", ".join(SUFFIXES)}), and nothing that the pattern meets')
    return sorted(found)


def models_by_name() -> dict[str, tuple[str, str | None]]:
    """List the models of ``model-index.yml``.

    Returns:
        dict[str, tuple[str, str | None]]: Name to path of the config and ``pervit_mm://`` name of the weights, or None
        where there are none.
    """
    root = package_root()
    return {entry['Name']: (str(root / entry['Config']), entry.get('Weights')) for entry in index_entries()}


def _check_score_thr(score_thr: float) -> None:
    """Raise ValueError unless a threshold of scores is a number from 0 to 1."""
    if not isinstance(score_thr, Real) or not 0 <= score_thr <= 1:
        raise UserError(f'score_thr (--score-thr) must be a number from 0 to 1, as scores are, got {score_thr!r}')


def _enlarge(rgb: np.ndarray) -> tuple[np.ndarray, int]:
    """Enlarge a small image by a whole number, so that names and scores have room, and return that number too."""
    scale = -(-LEAST_SIDE // min(rgb.shape[:2])) if min(rgb.shape[:2]) < LEAST_SIDE else 1
    size = (rgb.shape[1] * scale, rgb.shape[0] * scale)
    return cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC) if scale > 1 else rgb, scale


def _repeat(maps: torch.Tensor, scale: int) -> torch.Tensor:
    """Enlarge maps ``(..., H, W)`` by a whole number."""
    return maps.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


class UnreadableImageError(UserError):
    """A file is no image, or a broken one; others may be all right."""


class ImagePredictor:
    """One interface to the inferencers of MMPretrain, MMDetection and MMSegmentation.

    Args:
        model (str): One of :func:`models_by_name`, or path of a config.
        weights (str, optional): Checkpoint; needed with a config, and with a model that has none. Defaults to None, the
            published one.
        device (str, optional): Defaults to None, a GPU where there is one.

    Raises:
        UserError: If there is no such model, a file that is no config, if a config or a model without weights comes
            without any, if the weights are not there, or if its ``default_scope`` is none of the three toolboxes.
    """

    def __init__(self, model: str, weights: str | None = None, device: str | None = None) -> None:
        models = models_by_name()
        if model in models:
            config, published = models[model]
        elif Path(model).is_file():
            config, published = model, None
        else:
            raise UserError(f'model={model!r} is neither a config nor one of {", ".join(sorted(models)) or "(none)"}')
        cfg = load_config(config)
        weights = weights or published
        if weights is None:
            what = ('has no published weights: give weights (--weights FILE), a file of the authors converted with '
                    'tools/model_converters/pervit_to_mm.py' if model in models else
                    'is a config, which has no weights: give weights (--weights FILE), the path of a checkpoint')
            raise UserError(f'model={model!r} {what}')
        check_checkpoint(weights, 'weights (--weights)')
        if '://' not in weights:  # the inferencer would refuse a damaged or hostile file in words of its own
            read_checkpoint(weights)
        self.scope = cfg.get('default_scope')
        if self.scope not in _INFERENCERS:
            raise UserError(f'default_scope={self.scope!r} of {config} must be one of {", ".join(_INFERENCERS)}')
        # Inferencers forget how a config decodes where they get an array; MMPretrain's always does.
        self.takes_arrays = self.scope == 'mmpretrain' or not any(
            step.get('color_type') or step.get('imdecode_backend') for step in cfg.test_dataloader.dataset.pipeline)
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
            UnreadableImageError: If the file cannot be read as an image.
            UserError: If ``score_thr`` is not from 0 to 1.
        """
        _check_score_thr(score_thr)
        image, picture = Path(image), Path(folder) / 'vis' / f'{Path(image).stem}.png'
        try:
            pixels = imread(str(image))
        except (OSError, cv2.error):
            pixels = None
        if pixels is None:
            raise UnreadableImageError(f"image '{image}' cannot be read as one: remove it, or name the others")
        with DefaultScope.overwrite_default_scope(self.scope):
            source = pixels if self.takes_arrays else str(image)
            result = getattr(self, f'_predict_{self.scope}')(source, pixels[..., ::-1], picture, score_thr)
        return dict(file=str(image), picture=str(picture), **result)

    # Part by part, to decode an image once: the inferencers take arrays in BGR, and draw on arrays in RGB. As a whole
    # MMPretrain's also names pictures otherwise, and shows a bar for each image.

    def _predict_mmpretrain(self, source: np.ndarray, rgb: np.ndarray, picture: Path, score_thr: float
                            ) -> dict[str, Any]:
        from mmpretrain.visualization import UniversalVisualizer
        data, = self.inferencer.preprocess([source])
        samples = self.inferencer.forward(data)
        prediction, = self.inferencer.postprocess(samples, None)
        UniversalVisualizer().visualize_cls(
            rgb, samples[0], classes=self.classes, draw_gt=False, out_file=str(picture),
            resize=224 if min(rgb.shape[:2]) < 224 else None)  # or the text doesn't fit
        return dict(prediction, pred_scores=prediction['pred_scores'].tolist())

    def _predict_mmdet(self, source: np.ndarray | str, rgb: np.ndarray, picture: Path, score_thr: float
                       ) -> dict[str, Any]:
        (_, data), = self.inferencer.preprocess([source])
        samples = self.inferencer.forward(data)
        large, scale = _enlarge(rgb)
        shown = samples[0].clone()
        shown.pred_instances = shown.pred_instances.clone()  # a clone shares its parts
        shown.pred_instances.bboxes = shown.pred_instances.bboxes * scale
        if 'masks' in shown.pred_instances:
            shown.pred_instances.masks = _repeat(shown.pred_instances.masks, scale)
        drawn, = self.inferencer.visualize([large], [shown], return_vis=True, pred_score_thr=score_thr)
        imwrite(drawn[..., ::-1], str(picture))
        found, = self.inferencer.postprocess(samples)['predictions']
        masks = [dict(mask=mask) for mask in found['masks']] if 'masks' in found else [{}] * len(found['labels'])
        return dict(detections=[
            {'label': label, 'class': self._name(label), 'score': score, 'bbox': bbox, **mask}
            for label, score, bbox, mask in zip(found['labels'], found['scores'], found['bboxes'], masks)
            if score >= score_thr])

    def _predict_mmseg(self, source: np.ndarray | str, rgb: np.ndarray, picture: Path, score_thr: float
                       ) -> dict[str, Any]:
        data, = self.inferencer.preprocess([source])
        samples = self.inferencer.forward(data)
        large, scale = _enlarge(rgb)
        shown = samples[0].clone()
        shown.pred_sem_seg = PixelData(data=_repeat(shown.pred_sem_seg.data, scale))  # another size needs another one
        drawn, = self.inferencer.visualize([large], [shown], return_vis=True)
        imwrite(drawn[..., ::-1], str(picture))
        predicted = self.inferencer.postprocess(samples, None)['predictions'].astype(np.uint8)
        labels, counts = np.unique(predicted, return_counts=True)
        label_map = picture.parents[1] / 'labels' / picture.name
        imwrite(predicted, str(label_map))
        shares = {self._name(label): count / counts.sum() for label, count in zip(labels.tolist(), counts.tolist())}
        return dict(label_map=str(label_map), shares=shares)

    def _name(self, label: int) -> str:
        return str(label) if self.classes is None else self.classes[label]


def predict_images(predictor: ImagePredictor, images: list[Path], out_dir: str | Path, score_thr: float = 0.3
                   ) -> list[dict[str, Any]]:
    """Predict images one by one under a progress bar; write pictures and ``predictions.json``.

    A file that cannot be read doesn't keep the others from it.

    Args:
        predictor (ImagePredictor): The model.
        images (list[Path]): Image files.
        out_dir (str | Path): Where everything goes; pictures into ``vis``.
        score_thr (float): See :meth:`ImagePredictor.predict`. Defaults to 0.3.

    Returns:
        list[dict]: What the JSON file holds, in the order of ``images``.

    Raises:
        UserError: If ``score_thr`` is not from 0 to 1, or two images have the same name and would share a picture; or,
            after all others are done and written, if some could not be read.
    """
    _check_score_thr(score_thr)
    twins = [stem for stem, count in Counter(path.stem for path in images).items() if count > 1]
    if twins:
        raise UserError(f'images: {len(twins)} names such as {twins[0]!r} belong to several files, whose pictures '
                        'would overwrite each other; give one folder at a time, or rename')
    out_dir, results, unreadable = Path(out_dir), [], []
    out_dir.mkdir(parents=True, exist_ok=True)
    try:
        # Given, since the default is the standard output of the time when MMEngine was imported.
        for path in track_iter_progress(images, file=sys.stdout):
            try:
                results.append(predictor.predict(path, out_dir, score_thr))
            except UnreadableImageError:
                unreadable.append(f"'{path}'")
    finally:  # what there is, also where something stops the run
        (out_dir / 'predictions.json').write_text(json.dumps(results, indent=1))
    if unreadable:
        raise UserError(f'images: {", ".join(unreadable)} cannot be read as images; others done: {len(results)}, '
                        f"see '{out_dir / 'predictions.json'}'")
    return results
