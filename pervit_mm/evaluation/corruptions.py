"""Noise, blur, contrast, brightness and JPEG in five strengths, after Hendrycks and Dietterich 2019.

The strengths are the numbers of the authors' code: for small images those of CIFAR-10-C (32 pixels), for large ones
those of ImageNet-C (224 pixels). The paper itself states no numbers. Ours are: the border between the two sets, a blur
that grows with the side of the image, and images that are not rounded to whole pixel values, except by JPEG.
"""
from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import UserError

#: Shorter side in pixels up to which an image takes the strengths of CIFAR-10-C (ours).
SMALL_SIDE = 64


def gaussian_noise(images: Tensor, deviation: float, generator: torch.Generator | None = None) -> Tensor:
    """Add independent normal noise to every pixel and channel; ``deviation`` is in units of 255."""
    return images + 255 * deviation * torch.randn(images.shape, generator=generator).to(images)


def shot_noise(images: Tensor, photons: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw every pixel from the Poisson distribution of its brightness; white is ``photons`` photons on average."""
    rates = images.clamp(0, 255).cpu() / 255 * photons
    return torch.poisson(rates, generator=generator).to(images) / photons * 255


def impulse_noise(images: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Make a ``share`` of the values black or white, half of them each, every channel for itself."""
    draw = torch.rand(images.shape, generator=generator).to(images)
    return torch.where(draw < share, torch.where(draw < share / 2, 0.0, 255.0), images)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian of ``sigma`` pixels, cut at four sigma; the border is repeated outwards."""
    reach = max(1, round(4 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device) / sigma)**2).to(images)
    kernel = kernel / kernel.sum()
    b, c, h, w = images.shape
    padded = F.pad(images, (reach, ) * 4, mode='replicate').reshape(b * c, 1, h + 2 * reach, w + 2 * reach)
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None]).reshape(b, c, h, w)


def contrast(images: Tensor, factor: float) -> Tensor:
    """Pull every channel towards its mean over the image; a ``factor`` of 0 leaves the mean alone."""
    mean = images.mean(dim=(-2, -1), keepdim=True)
    return mean + factor * (images - mean)


def brightness(images: Tensor, shift: float) -> Tensor:
    """Raise the value of HSV, the largest channel, by ``shift`` in units of 255; hue and saturation stay."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + 255 * shift).clamp(0, 255)
    # Channels in proportion keep hue and saturation. Black has none and becomes gray.
    return torch.where(value > 0, images / value.clamp_min(1e-6) * raised, raised)


def jpeg_compression(images: Tensor, quality: int) -> Tensor:
    """Write and read each image as JPEG of OpenCV. Three channels are in its order, blue, green, red."""
    if images.shape[1] not in (1, 3):
        raise UserError(f'images must have 1 or 3 channels for JPEG, got {images.shape[1]}; use another corruption')
    pixels = images.clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    changed = []
    for image in pixels:
        _, written = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        changed.append(cv2.imdecode(written, cv2.IMREAD_UNCHANGED).reshape(image.shape))
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2).to(images)


#: For each corruption its function, the numbers of CIFAR-10-C and those of ImageNet-C, strengths 1 to 5.
CORRUPTIONS: dict[str, tuple[Callable[..., Tensor], tuple[float, ...], tuple[float, ...]]] = dict(
    gaussian_noise=(gaussian_noise, (.04, .06, .08, .09, .10), (.08, .12, .18, .26, .38)),
    shot_noise=(shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    impulse_noise=(impulse_noise, (.01, .02, .03, .05, .07), (.03, .06, .09, .17, .27)),
    gaussian_blur=(gaussian_blur, (.4, .6, .7, .8, 1.), (1., 2., 3., 4., 6.)),
    contrast=(contrast, (.75, .5, .4, .3, .15), (.4, .3, .2, .1, .05)),
    brightness=(brightness, (.05, .1, .15, .2, .3), (.1, .2, .3, .4, .5)),
    jpeg_compression=(jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
)
#: Corruptions that are drawn by chance.
RANDOM_CORRUPTIONS = ('gaussian_noise', 'shot_noise', 'impulse_noise')


def check_corruption(name: str, strength: int) -> None:
    """Raise UserError unless there is such a corruption and ``strength`` is a whole number from 1 to 5."""
    if name not in CORRUPTIONS:
        raise UserError(f'name must be one of {", ".join(CORRUPTIONS)}, got {name!r}')
    if type(strength) is not int or not 1 <= strength <= 5:
        raise UserError(f'strength must be a whole number from 1 to 5, got {strength!r}')


def amount_of(name: str, strength: int, size: tuple[int, int]) -> float:
    """The number that a corruption of some strength gets for images of ``size`` (h, w) in pixels.

    Shorter sides up to :data:`SMALL_SIDE` take the numbers of CIFAR-10-C. The sigma of the blur is multiplied by the
    shorter side over 32, or over 224 for larger images, so that it is the same share of the image (ours).
    """
    _, small, large = CORRUPTIONS[name]
    side = min(size)
    numbers, stated_side = (small, 32) if side <= SMALL_SIDE else (large, 224)
    return numbers[strength - 1] * (side / stated_side if name == 'gaussian_blur' else 1)


def corrupt(images: Tensor, name: str, strength: int, generator: torch.Generator | None = None) -> Tensor:
    """Corrupt images by name and strength.

    Args:
        images (Tensor): Pixels ``(B, C, h, w)`` in [0, 255], before they are normalized.
        name (str): A key of :data:`CORRUPTIONS`.
        strength (int): 1 to 5.
        generator (torch.Generator, optional): For noise; on the CPU, so that a seed means the same on each device.
            Defaults to None, PyTorch's own.

    Returns:
        Tensor: ``(B, C, h, w)``, float32 or wider, clipped to [0, 255].

    Raises:
        UserError: If there is no such corruption or strength, or JPEG gets other than 1 or 3 channels.
    """
    check_corruption(name, strength)
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    chance = dict(generator=generator) if name in RANDOM_CORRUPTIONS else {}
    changed = CORRUPTIONS[name][0](images, amount_of(name, strength, images.shape[-2:]), **chance)
    return changed.clamp(0, 255)
