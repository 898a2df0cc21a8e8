"""Images without their fine or their coarse structure, by an ideal circular filter."""
from numbers import Real

import torch
from torch import Tensor

from ..utils.errors import UserError


def check_radius(radius: float) -> None:
    """Raise UserError unless ``radius`` is a number of cycles per image, 0 or more."""
    if isinstance(radius, bool) or not isinstance(radius, Real) or not radius >= 0:
        raise UserError(f'radius must be a number of cycles per image, 0 or more, got {radius!r}; an image of n pixels '
                        'has n / 2 cycles')


def low_pass(image: Tensor, radius: float) -> Tensor:
    """Keep the frequencies within a circle, by the discrete Fourier transform. The rule is ours.

    The filter is for pixels before they are normalized. The result is not clipped: an ideal filter rings at edges, so
    it may leave the range of the pixels a little.

    Args:
        image (Tensor): ``(..., h, w)``, in any unit.
        radius (float): Largest frequency that is kept, in cycles per image. The frequency of a wave with y cycles over
            the height and x cycles over the width is √(y² + x²). 0 keeps the mean alone; from √(h² + w²) / 2 on, the
            image stays as it is.

    Returns:
        Tensor: ``(..., h, w)``, float32 or wider.

    Raises:
        UserError: If ``radius`` is not a number of at least 0.
    """
    check_radius(radius)
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    h, w = image.shape[-2:]
    rows = torch.fft.fftfreq(h, 1 / h, dtype=torch.float64, device=image.device)
    cols = torch.fft.rfftfreq(w, 1 / w, dtype=torch.float64, device=image.device)
    # Frequencies are whole numbers, so their squares are exact; the margin is for a radius such as √2.
    inside = rows[:, None]**2 + cols[None, :]**2 <= radius**2 * (1 + 1e-9)
    return torch.fft.irfft2(torch.fft.rfft2(image) * inside, s=(h, w))


def high_pass(image: Tensor, radius: float) -> Tensor:
    """Remove the frequencies within a circle, but keep the mean. The rule is ours.

    ``low_pass(image, radius) + high_pass(image, radius) - mean`` is the image.

    Args:
        image (Tensor): ``(..., h, w)``, in any unit, before it is normalized.
        radius (float): Largest frequency that is removed, in cycles per image, see :func:`low_pass`. 0 removes nothing.

    Returns:
        Tensor: ``(..., h, w)``, float32 or wider, not clipped.

    Raises:
        UserError: If ``radius`` is not a number of at least 0.
    """
    low = low_pass(image, radius)
    return image - low + low.mean(dim=(-2, -1), keepdim=True)
