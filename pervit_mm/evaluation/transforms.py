"""The changes of images as transforms of a pipeline: occlusion, shuffling, filters and corruptions.

``custom_imports = dict(imports=['pervit_mm', 'pervit_mm.evaluation'], allow_failed_imports=False)`` registers them.
They stand after the resizing and before ``PackInputs``. They take images ``(h, w, C)`` or ``(h, w)`` with values from 0
to 255, and change nothing else of the results.
"""
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS
from torch import Tensor

from ..analysis.frequency import check_radius, high_pass, low_pass
from ..utils.errors import UserError, told
from .corruptions import check_corruption, corrupt
from .occlusion import check_drop, drop_patches, shuffle_patches


def _check_seed(seed: int) -> None:
    if type(seed) is not int or seed < 0:
        raise UserError(f'seed must be a whole number of at least 0, got {seed!r}')


def _generator(seed: int, results: dict[str, Any]) -> torch.Generator:
    """Generator of one image. Workers and the order of the images have no part in it."""
    number = np.random.SeedSequence((seed, results.get('sample_idx', 0))).generate_state(1)[0]
    return torch.Generator().manual_seed(int(number))


def _change(results: dict[str, Any], change: Callable[[Tensor], Tensor], round_pixels: bool = True) -> dict[str, Any]:
    """Replace ``results['img']`` by what ``change`` makes of it as a float32 batch ``(1, C, h, w)``.

    With ``round_pixels`` an image in uint8 stays one.
    """
    image = results['img']
    channels_last = image if image.ndim == 3 else image[..., None]
    pixels = torch.from_numpy(np.ascontiguousarray(channels_last, dtype=np.float32)).permute(2, 0, 1)[None]
    changed = change(pixels)[0].permute(1, 2, 0)
    if round_pixels and image.dtype == np.uint8:
        changed = changed.round().clamp(0, 255).byte()
    results['img'] = np.ascontiguousarray(changed.numpy().reshape(image.shape))
    return results


@TRANSFORMS.register_module()
class PerViTPatchDrop(BaseTransform):
    """Drop a share of the patches, see :func:`pervit_mm.evaluation.drop_patches`.

    Args:
        fraction (float): Share of the patches, from 0 to 1.
        grid (tuple[int, int]): Grid (H, W) of patches, which must divide the image.
        order (str): 'random', 'salient' or 'non-salient'. The latter two read a map ``(H, W)`` from
            ``results['saliency']``. Defaults to 'random'.
        fill (str): 'zero', 'mean' or 'noise'. Defaults to 'zero'.
        seed (int): With ``results['sample_idx']`` it fixes what is drawn for an image. Defaults to 0.

    Raises:
        UserError: If an argument is none of the allowed ones; while running, if the saliency is missing.

    Examples:
        >>> test_pipeline = [dict(type='PerViTPatchDrop', fraction=0.5, grid=(7, 7)), dict(type='PackInputs')]
    """

    def __init__(self, fraction: float, grid: tuple[int, int], order: str = 'random', fill: str = 'zero',
                 seed: int = 0) -> None:
        check_drop(fraction, order, fill)
        _check_seed(seed)
        self.fraction, self.grid, self.order, self.fill, self.seed = fraction, grid, order, fill, seed

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Drop patches of ``results['img']``."""
        saliency = results.get('saliency')
        saliency = None if saliency is None else torch.as_tensor(saliency)[None]
        return _change(results, lambda image: drop_patches(
            image, self.fraction, self.grid, self.order, self.fill, saliency, _generator(self.seed, results))[0])


@TRANSFORMS.register_module()
class PerViTPatchShuffle(BaseTransform):
    """Put the tiles of the image in another order, see :func:`pervit_mm.evaluation.shuffle_patches`.

    Args:
        grid (int): Tiles on each side.
        seed (int): With ``results['sample_idx']`` it fixes the order. Defaults to 0.

    Raises:
        UserError: If the seed is none; while running, if the grid doesn't divide the image.
    """

    def __init__(self, grid: int, seed: int = 0) -> None:
        _check_seed(seed)
        self.grid, self.seed = grid, seed

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Shuffle ``results['img']``."""
        return _change(results, lambda image: shuffle_patches(image, self.grid, _generator(self.seed, results)))


@TRANSFORMS.register_module()
class PerViTLowPass(BaseTransform):
    """Keep the coarse structure, see :func:`pervit_mm.analysis.low_pass`.

    The image becomes float32 and is not clipped, so that no fine structure comes back.

    Args:
        radius (float): Largest frequency that is kept, in cycles per image.

    Raises:
        UserError: If ``radius`` is not a number of at least 0.
    """

    def __init__(self, radius: float) -> None:
        check_radius(radius)
        self.radius = radius

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Filter ``results['img']``."""
        return _change(results, lambda image: low_pass(image, self.radius), round_pixels=False)


@TRANSFORMS.register_module()
class PerViTHighPass(BaseTransform):
    """Keep the fine structure and the mean, see :func:`pervit_mm.analysis.high_pass`.

    The image becomes float32 and is not clipped, so that no coarse structure comes back.

    Args:
        radius (float): Largest frequency that is removed, in cycles per image.

    Raises:
        UserError: If ``radius`` is not a number of at least 0.
    """

    def __init__(self, radius: float) -> None:
        check_radius(radius)
        self.radius = radius

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Filter ``results['img']``."""
        return _change(results, lambda image: high_pass(image, self.radius), round_pixels=False)


@TRANSFORMS.register_module()
class PerViTCorruption(BaseTransform):
    """Noise, blur, contrast, brightness or JPEG, see :func:`pervit_mm.evaluation.corrupt`.

    Args:
        name (str): A key of :data:`pervit_mm.evaluation.corruptions.CORRUPTIONS`, such as 'gaussian_noise'.
        strength (int): 1 to 5.
        seed (int): With ``results['sample_idx']`` it fixes the noise of an image. Defaults to 0.

    Raises:
        UserError: If there is no such corruption, strength or seed.
    """

    def __init__(self, name: str, strength: int, seed: int = 0) -> None:
        check_corruption(name, strength)
        _check_seed(seed)
        self.name, self.strength, self.seed = name, strength, seed

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Corrupt ``results['img']``."""
        return _change(results, lambda image: corrupt(
            image, self.name, self.strength, _generator(self.seed, results)))


@TRANSFORMS.register_module()
class PerViTLoadSaliency(BaseTransform):
    """Put the saliency of an image where :class:`PerViTPatchDrop` looks for it.

    ``numpy.save(file, received_attention(model, inputs))`` makes the file, with one map for each image of the data set
    in its order; see :func:`pervit_mm.evaluation.received_attention`.

    Args:
        file (str): ``.npy`` of the shape ``(n, H, W)``.

    Raises:
        UserError: If the file can't be read; while running, if the image has no number or the file no map of it.
    """

    def __init__(self, file: str) -> None:
        self.file = str(file)
        with told(f'file={self.file!r} of PerViTLoadSaliency cannot be read', OSError, ValueError, EOFError):
            self.maps = np.load(self.file, allow_pickle=False)
        if self.maps.ndim != 3:
            raise UserError(f'file={self.file!r} of PerViTLoadSaliency must hold (n, H, W), got {self.maps.shape}')

    def transform(self, results: dict) -> dict:
        """Add ``saliency`` ``(H, W)`` by ``sample_idx``."""
        number = results.get('sample_idx')
        if number is None or not 0 <= number < len(self.maps):
            raise UserError(f'file={self.file!r} of PerViTLoadSaliency holds {len(self.maps)} maps, and the image has '
                            f'the number {number!r}: make the file from the same data set')
        results['saliency'] = self.maps[number]
        return results
