"""Predictions and pictures of a model, made with the inferencer of its toolbox. demo/image_demo.py runs this."""
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
from mmcv.image import imwrite
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmengine.utils import track_iter_progress

from ..checkpoints import read_classifier
from ..utils.errors import UserError, told
from .building import build_with_preprocessor, load_strictly
from .images import UnreadableImageError, read_image
from .named_models import check_device, resolve_model

#: Least shorter side, in pixels, of pictures of detections and label maps. Smaller images are enlarged for them.
LEAST_SIDE = 384
#: Longer side, in pixels, that a picture is enlarged to at most.
MOST_SIDE = 2048
#: For each scope, the inferencer's module, its class, and the argument that takes the weights.
_INFERENCERS = dict(
    mmpretrain=('mmpretrain', 'ImageClassificationInferencer', 'pretrained'),
    mmdet=('mmdet.apis', 'DetInferencer', 'weights'),
    mmseg=('mmseg.apis', 'MMSegInferencer', 'weights'))


def _check_score_thr(score_thr: float) -> None:
    """Raise UserError unless a threshold of scores is a number from 0 to 1."""
    if not isinstance(score_thr, Real) or not 0 <= score_thr <= 1:
        raise UserError(f'score_thr (--score-thr) must be a number from 0 to 1, as scores are, got {score_thr!r}')


def enlarge(rgb: np.ndarray) -> tuple[np.ndarray, int]:
    """Enlarge a small image by a whole number, so that names and scores have room. Return the number too."""
    short, long = sorted(rgb.shape[:2])
    scale = max(1, min(-(-LEAST_SIDE // short), MOST_SIDE // long))
    size = (rgb.shape[1] * scale, rgb.shape[0] * scale)
    return cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC) if scale > 1 else rgb, scale


def _repeat(maps: torch.Tensor, scale: int) -> torch.Tensor:
    """Enlarge maps ``(..., H, W)`` by a whole number."""
    return maps.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


class ImagePredictor:
    """One interface to the inferencers of MMPretrain, MMDetection and MMSegmentation.

    Args:
        model (str): A name of :func:`models_by_name`, or the path of a config.
        weights (str, optional): The checkpoint. It must be given for a config, and for a model without published
            weights. Defaults to None, the published one.
        device (str, optional): Defaults to None, which takes a GPU if there is one.

    Raises:
        UserError: If there is no such model, if its file is no config in ``.py``, if weights must be given and are not,
            if the weights cannot be found or read, or are of another model, or if the config's ``default_scope`` is
            none of the three toolboxes.
    """

    def __init__(self, model: str, weights: str | None = None, device: str | None = None) -> None:
        cfg, weights = resolve_model(model, weights)
        if cfg.get('test_dataloader') is None:
            raise UserError(f'model={model!r} has no test_dataloader, as a pre-training without labels, which predicts '
                            'nothing: fine-tune it first (docs/pretraining.md), or give another model')
        self.cfg = cfg  # the inferencer has a copy, of which it drops what reads labels
        self.scope = cfg.get('default_scope')
        if self.scope not in _INFERENCERS:
            raise UserError(f'default_scope={self.scope!r} of {model} must be one of {", ".join(_INFERENCERS)}')
        # The inferencer would take what fits, leave the rest random, and predict. Of a damaged or hostile file its
        # message would be unclear.
        load_strictly(build_with_preprocessor(cfg), read_classifier(weights), f"weights='{weights}'")
        # An inferencer ignores how the config decodes images if it gets an array. MMPretrain's ignores it anyway.
        self.takes_arrays = self.scope == 'mmpretrain' or not any(
            step.get('color_type') or step.get('imdecode_backend') for step in cfg.test_dataloader.dataset.pipeline)
        module, name, keyword = _INFERENCERS[self.scope]
        device = check_device(device or get_device())
        # An inferencer leaves its own scope behind as the default one, in which the next may not find its transforms.
        with DefaultScope.overwrite_default_scope(self.scope), told(
                f'model={model!r} cannot be built with weights={weights!r}', ImportError, OSError):
            self.inferencer = getattr(import_module(module), name)(cfg, **{keyword: weights}, device=device)
        self.inferencer.show_progress = False  # predict_images shows one bar over all images

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, or None if the checkpoint has none."""
        if self.scope == 'mmpretrain':
            return self.inferencer.classes
        return self.inferencer.model.dataset_meta.get('classes')

    def predict(self, image: str | Path, folder: str | Path, score_thr: float = 0.3) -> dict[str, Any]:
        """Predict one image and draw the prediction.

        Args:
            image (str | Path): The image file.
            folder (str | Path): Output folder. Pictures go into its ``vis``, label maps of segmentors into its
                ``labels``.
            score_thr (float): Detections with a lower score are neither drawn nor returned. Defaults to 0.3.

        Returns:
            dict: ``file`` and ``picture``, and what the kind of model adds.

            - A classifier: ``pred_label``, ``pred_class`` (if the checkpoint has names), ``pred_score`` and
              ``pred_scores``.
            - A detector: ``detections``, a list of ``label``, ``class``, ``score``, ``bbox`` (x1, y1, x2, y2 in pixels)
              and, if it predicts masks, ``mask`` (COCO's run lengths).
            - A segmentor: ``label_map`` (a PNG of class indices) and ``shares`` (share of the pixels by class).

        Raises:
            UnreadableImageError: If the file cannot be read as an image.
            UserError: If ``score_thr`` is not from 0 to 1.
        """
        _check_score_thr(score_thr)
        image, picture = Path(image), Path(folder) / 'vis' / f'{Path(image).stem}.png'
        pixels = read_image(image)
        with DefaultScope.overwrite_default_scope(self.scope):
            source = pixels if self.takes_arrays else str(image)
            result = getattr(self, f'_predict_{self.scope}')(source, pixels[..., ::-1], picture, score_thr)
        return dict(file=str(image), picture=str(picture), **result)

    # The methods below call the parts of an inferencer one by one, so that the image on which they draw is not decoded
    # again. Inferencers take arrays in BGR and draw on arrays in RGB. Called as a whole, MMPretrain's would also name
    # pictures in another way and show a bar for each image.

    def _predict_mmpretrain(self, source: np.ndarray, rgb: np.ndarray, picture: Path, score_thr: float
                            ) -> dict[str, Any]:
        from mmpretrain.visualization import UniversalVisualizer
        data, = self.inferencer.preprocess([source])
        samples = self.inferencer.forward(data)
        prediction, = self.inferencer.postprocess(samples, None)
        UniversalVisualizer().visualize_cls(
            rgb, samples[0], classes=self.classes, draw_gt=False, out_file=str(picture),
            resize=224 if min(rgb.shape[:2]) < 224 else None)  # otherwise the text doesn't fit
        return dict(prediction, pred_scores=prediction['pred_scores'].tolist())

    def _predict_mmdet(self, source: np.ndarray | str, rgb: np.ndarray, picture: Path, score_thr: float
                       ) -> dict[str, Any]:
        (_, data), = self.inferencer.preprocess([source])
        samples = self.inferencer.forward(data)
        large, scale = enlarge(rgb)
        shown = samples[0].clone()
        shown.pred_instances = shown.pred_instances.clone()  # clone() of a sample copies no parts
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
        large, scale = enlarge(rgb)
        shown = samples[0].clone()
        shown.pred_sem_seg = PixelData(data=_repeat(shown.pred_sem_seg.data, scale))  # a PixelData's size is fixed
        drawn, = self.inferencer.visualize([large], [shown], return_vis=True)
        imwrite(drawn[..., ::-1], str(picture))
        predicted = self.inferencer.postprocess(samples, None)['predictions']
        largest = max(len(self.classes or ()) - 1, predicted.max())
        predicted = predicted.astype(np.uint8 if largest < 256 else np.uint16)
        labels, counts = np.unique(predicted, return_counts=True)
        label_map = picture.parents[1] / 'labels' / picture.name
        imwrite(predicted, str(label_map))
        shares = {self._name(label): count / counts.sum() for label, count in zip(labels.tolist(), counts.tolist())}
        return dict(label_map=str(label_map), shares=shares)

    def _name(self, label: int) -> str:
        return str(label) if self.classes is None else self.classes[label]


def predict_images(predictor: ImagePredictor, images: list[Path], out_dir: str | Path, score_thr: float = 0.3
                   ) -> list[dict[str, Any]]:
    """Predict images one by one with a progress bar, and write pictures and ``predictions.json``.

    Files that cannot be read are skipped and reported at the end.

    Args:
        predictor (ImagePredictor): The model.
        images (list[Path]): Image files.
        out_dir (str | Path): Output folder. Pictures go into its ``vis``.
        score_thr (float): See :meth:`ImagePredictor.predict`. Defaults to 0.3.

    Returns:
        list[dict]: What the JSON file holds, in the order of ``images``.

    Raises:
        UserError: If ``score_thr`` is not from 0 to 1, or two images have the same name and would overwrite each
            other's picture. Also if some files could not be read, after all others are done and written.
    """
    _check_score_thr(score_thr)
    twins = [stem for stem, count in Counter(path.stem for path in images).items() if count > 1]
    if twins:
        raise UserError(f'images: {len(twins)} names such as {twins[0]!r} belong to several files, whose pictures '
                        'would overwrite each other; give one folder at a time, or rename')
    out_dir, results, unreadable = Path(out_dir), [], []
    with told(f'out_dir={str(out_dir)!r} cannot be made'):
        out_dir.mkdir(parents=True, exist_ok=True)
    try:
        # `file` must be given: its default is what sys.stdout was when MMEngine was imported.
        for path in track_iter_progress(images, file=sys.stdout):
            try:
                results.append(predictor.predict(path, out_dir, score_thr))
            except UnreadableImageError as error:
                unreadable.append(str(error))
    finally:  # write what there is, also if something stops the run
        (out_dir / 'predictions.json').write_text(json.dumps(results, indent=1))
    if unreadable:
        raise UserError(f'images: {"; ".join(unreadable)}. Others done: {len(results)}, see '
                        f"'{out_dir / 'predictions.json'}'")
    return results
