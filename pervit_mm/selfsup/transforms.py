"""Several views of an image that remember where they come from, and jitter for gray images."""
from collections.abc import Sequence
from numbers import Real

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform, Compose
from mmengine.registry import TRANSFORMS

from ..utils.errors import UserError

#: Draws of a view until it overlaps the others.
ATTEMPTS = 1000
INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'area', 'lanczos')


@TRANSFORMS.register_module()
class MultiCropWithBoxes(BaseTransform):
    """Large and small random crops of an image, with the box of each: the multi-crop of SwAV and DINO.

    MMPretrain's ``RandomResizedCrop`` draws the crops, with aspect ratios from 3/4 to 4/3. Global views come first in
    every list. MMPretrain's ``MultiView`` makes views too, but doesn't tell their boxes.

    **Required keys:** ``img``, an array ``(h, w, C)`` or ``(h, w)``.

    **Modified keys:** ``img``, a list of V = ``num_global + num_local`` views. They have as many axes as the image.

    **Added keys:**

    - ``boxes``, float32 ``(V, 4)``: x1, y1, x2, y2 of each crop in pixels of ``img``. The right and lower edge are the
      first column and row outside.
    - ``flipped``, bool ``(V, )``: whether ``RandomFlip`` turned the view left to right.

    Args:
        global_size (int): Side of the global views in pixels. Defaults to 224.
        global_scale (Sequence[float]): Smallest and largest share of the image's area in a global view. Defaults to
            (0.4, 1.0), which is DINO's.
        num_global (int): Number of global views. Defaults to 2.
        local_size (int): Side of the local views in pixels. Defaults to 96.
        local_scale (Sequence[float]): As ``global_scale``. Defaults to (0.05, 0.4), which is DINO's.
        num_local (int): Number of local views. Defaults to 0; DINO takes 8.
        global_transforms (Sequence): A pipeline for all global views, or a list with one pipeline for each. It runs
            after crop and resize on a dict of ``img`` and ``img_shape``. ``RandomFlip`` may stand in it once; no other
            transform may move pixels, or the boxes are wrong. Defaults to (), no transform.
        local_transforms (Sequence): The pipeline of all local views. Defaults to ().
        min_overlap (float): Least area that each view shares with each global view, as a share of the image's, in
            [0, 1). Two global views share at least twice as much. Views are drawn again until they do. Leopart: 0.01.
            Defaults to 0, where they need not overlap.
        interpolation (str): 'nearest', 'bilinear', 'bicubic', 'area' or 'lanczos'. Defaults to 'bicubic'.
        backend (str): 'cv2' or 'pillow'. Pillow filters what it shrinks, as DINO's crops do, and takes no single
            channel in ``(h, w, 1)``. Defaults to 'cv2'.

    Raises:
        UserError: If there is no view, a size is not positive, a scale not ``0 < low <= high <= 1``, ``min_overlap``
            out of range, or the number of pipelines is not that of the global views; while running, if a pipeline flips
            in another direction, or no view with ``min_overlap`` is found.

    Note:
        ``boxes`` and ``flipped`` reach the model as arrays if they are among the ``algorithm_keys`` of ``PackInputs``.
        The batch needs ``collate_fn=dict(type='default_collate')`` and ``SelfSupDataPreprocessor``, which gives the
        model a list of V tensors ``(B, C, size, size)``.

    Examples:
        >>> flip, jitter = dict(type='RandomFlip', prob=0.5), dict(type='GrayJitter', brightness=0.4, contrast=0.4)
        >>> train_pipeline = [
        ...     dict(type='MultiCropWithBoxes', global_size=28, local_size=16, num_local=4,
        ...          global_transforms=[[flip, jitter], [flip, jitter, dict(type='Solarize', thr=128, prob=0.2)]],
        ...          local_transforms=[flip, jitter]),
        ...     dict(type='PackInputs', algorithm_keys=('boxes', 'flipped'), meta_keys=())]
        >>> # In the model: boxes = torch.from_numpy(np.stack([sample.boxes for sample in data_samples]))  # (B, V, 4)
    """

    def __init__(self,
                 global_size: int = 224,
                 global_scale: Sequence[float] = (0.4, 1.0),
                 num_global: int = 2,
                 local_size: int = 96,
                 local_scale: Sequence[float] = (0.05, 0.4),
                 num_local: int = 0,
                 global_transforms: Sequence = (),
                 local_transforms: Sequence = (),
                 min_overlap: float = 0.,
                 interpolation: str = 'bicubic',
                 backend: str = 'cv2') -> None:
        for name, number in (('num_global', num_global), ('num_local', num_local)):
            if type(number) is not int or number < 0:
                raise UserError(f'{name} of MultiCropWithBoxes must be a whole number of at least 0, got {number!r}')
        if num_global + num_local == 0:
            raise UserError('num_global and num_local of MultiCropWithBoxes are both 0: give at least one view')
        if interpolation not in INTERPOLATIONS:
            raise UserError(f'interpolation of MultiCropWithBoxes must be one of {INTERPOLATIONS}, got '
                            f'{interpolation!r}')
        if _is_nested('local_transforms', local_transforms):
            raise UserError('local_transforms of MultiCropWithBoxes must be one pipeline for all local views, got '
                            f'{len(local_transforms)} pipelines')
        if not _is_nested('global_transforms', global_transforms):
            global_transforms = [global_transforms] * num_global
        elif len(global_transforms) != num_global:
            raise UserError(f'global_transforms of MultiCropWithBoxes must be one pipeline, or one for each of '
                            f'num_global={num_global} views, got {len(global_transforms)} pipelines')
        if backend not in ('cv2', 'pillow') or (backend == 'pillow' and interpolation == 'area'):
            raise UserError("backend of MultiCropWithBoxes must be 'cv2', or 'pillow' with another interpolation than "
                            f"'area', got {backend!r} with {interpolation!r}")
        if not (isinstance(min_overlap, Real) and 0 <= min_overlap < 1):
            raise UserError(f'min_overlap of MultiCropWithBoxes must be a share of at least 0 and below 1, got '
                            f'{min_overlap!r}')
        self.interpolation, self.backend = interpolation, backend
        self.num_global, self.min_overlap = num_global, min_overlap
        global_crop = _build_crop('global', global_size, global_scale)
        local_crop = _build_crop('local', local_size, local_scale)
        #: A crop and a pipeline for each view.
        self.views = [(global_crop, Compose(pipeline)) for pipeline in global_transforms]
        self.views += [(local_crop, Compose(local_transforms))] * num_local

    def transform(self, results: dict) -> dict | None:
        """Replace ``results['img']`` by its views; None if a pipeline gives the image up by returning None."""
        image = results['img']
        views, boxes, flipped = [], [], []
        for crop, pipeline in self.views:
            left, top, right, bottom = self._draw_box(crop, image, boxes)
            view = mmcv.imresize(image[top:bottom, left:right], crop.scale, backend=self.backend,
                                 interpolation=self.interpolation)
            view = view.reshape(*view.shape[:2], *image.shape[2:])  # OpenCV drops the axis of a single channel
            made = pipeline(dict(img=view, img_shape=view.shape[:2]))
            if made is None:
                return None
            direction = made.get('flip_direction')
            if direction not in (None, 'horizontal'):
                raise UserError(f"RandomFlip in MultiCropWithBoxes must have direction='horizontal', got "
                                f'{direction!r}: results keep no other flip')
            views.append(made['img'])
            boxes.append((left, top, right, bottom))
            flipped.append(direction == 'horizontal')
        results.update(img=views, boxes=np.array(boxes, np.float32), flipped=np.array(flipped))
        return results

    def _draw_box(self, crop: BaseTransform, image: np.ndarray, boxes: Sequence[tuple]) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 of the next view behind those of ``boxes``."""
        # While global views are drawn, all of `boxes` are global.
        least = self.min_overlap * image.shape[0] * image.shape[1] * (2 if len(boxes) < self.num_global else 1)
        for _ in range(ATTEMPTS if least else 1):
            top, left, height, width = crop.rand_crop_params(image)
            box = left, top, left + width, top + height
            if not least or all(_overlap(box, other) >= least for other in boxes[:self.num_global]):
                return box
        raise UserError(f'min_overlap={self.min_overlap} of MultiCropWithBoxes was not reached in {ATTEMPTS} draws of '
                        'a view: lower it, or raise global_scale and local_scale')


def _overlap(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> int:
    """Pixels that two boxes share."""
    width, height = (min(box[i + 2], other[i + 2]) - max(box[i], other[i]) for i in (0, 1))
    return max(0, width) * max(0, height)


def _is_nested(name: str, transforms: Sequence) -> bool:
    """Whether ``transforms`` is a list of pipelines and not one pipeline."""
    if not isinstance(transforms, (list, tuple)):
        raise UserError(f'{name} of MultiCropWithBoxes must be a list of transforms, got {transforms!r}')
    nested = [isinstance(one, (list, tuple)) for one in transforms]
    if any(nested) and not all(nested):
        raise UserError(f'{name} of MultiCropWithBoxes must hold transforms or pipelines, got both: put each pipeline '
                        'in a list of its own')
    return any(nested)


def _build_crop(kind: str, size: int, scale: Sequence[float]) -> BaseTransform:
    """The checked ``RandomResizedCrop``, of which only the draw and the size are used."""
    if type(size) is not int or size < 1:
        raise UserError(f'{kind}_size of MultiCropWithBoxes must be a positive number of pixels, got {size!r}')
    if not (isinstance(scale, (list, tuple)) and len(scale) == 2 and all(isinstance(share, Real) for share in scale)
            and 0 < scale[0] <= scale[1] <= 1):
        raise UserError(f'{kind}_scale of MultiCropWithBoxes must be two shares of the area, 0 < low <= high <= 1, got '
                        f'{scale!r}')
    return TRANSFORMS.build(dict(type='mmpretrain.RandomResizedCrop', scale=size, crop_ratio_range=tuple(scale)))


@TRANSFORMS.register_module()
class GrayJitter(BaseTransform):
    """Random brightness and contrast of gray images, on which MMPretrain's ``ColorJitter`` fails.

    Brightness multiplies the pixels. Contrast scales their distance from the mean of the image. The order is random, as
    in torchvision's ``ColorJitter``. Values are clipped after each of the two and rounded once.

    **Modified keys:** ``img``, uint8 of ``(h, w)`` or ``(h, w, 1)``.

    Args:
        brightness (float): The factor is uniform in ``[max(0, 1 - brightness), 1 + brightness]``. 0 turns it off.
        contrast (float): As ``brightness``.
        prob (float): Probability that an image is changed. Defaults to 0.8, as in DINO.

    Raises:
        UserError: If a number is out of range; while running, if an image is not gray or not uint8.
    """

    def __init__(self, brightness: float, contrast: float, prob: float = 0.8) -> None:
        for name, value, highest in (('brightness', brightness, np.inf), ('contrast', contrast, np.inf),
                                     ('prob', prob, 1)):
            if not (isinstance(value, Real) and 0 <= value <= highest):
                raise UserError(f'{name} of GrayJitter must be at least 0{" and at most 1" * (highest == 1)}, got '
                                f'{value!r}')
        self.brightness, self.contrast, self.prob = brightness, contrast, prob

    def transform(self, results: dict) -> dict:
        """Change ``results['img']``."""
        image = results['img']
        if image.dtype != np.uint8 or image.shape[2:] not in ((), (1, )):
            raise UserError(f'img for GrayJitter must be uint8 of shape (h, w) or (h, w, 1), got {image.dtype} of '
                            f'{image.shape}: use ColorJitter for images with colors, and jitter before normalizing')
        if np.random.rand() < self.prob:
            factors = [np.random.uniform(max(0, 1 - width), 1 + width) for width in (self.brightness, self.contrast)]
            results['img'] = jitter(image, *factors, contrast_first=np.random.rand() < 0.5)
        return results


def jitter(image: np.ndarray, brightness: float, contrast: float, contrast_first: bool = False) -> np.ndarray:
    """Change brightness and contrast of a gray image by fixed factors.

    Args:
        image (np.ndarray): uint8 of any shape.
        brightness (float): Factor of the pixels.
        contrast (float): Factor of their distance from the mean.
        contrast_first (bool): Whether contrast goes ahead of brightness. Defaults to False.

    Returns:
        np.ndarray: uint8 of the same shape.
    """
    pixels = image.astype(np.float32)
    for by_contrast in (contrast_first, not contrast_first):
        if by_contrast:
            mean = pixels.mean()
            pixels = mean + np.float32(contrast) * (pixels - mean)
        else:
            pixels = pixels * np.float32(brightness)
        pixels = pixels.clip(0, 255)
    return np.rint(pixels).astype(np.uint8)
