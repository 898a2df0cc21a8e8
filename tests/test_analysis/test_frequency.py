"""Filters against waves of known frequency, and against a Fourier sum by definition."""
import cmath
import math

import pytest
import torch

from pervit_mm.analysis.frequency import high_pass, low_pass


def wave(h, w, y, x):
    """y cycles over the height, x over the width."""
    rows, cols = torch.arange(h, dtype=torch.float64)[:, None], torch.arange(w, dtype=torch.float64)
    return torch.cos(2 * math.pi * (y * rows / h + x * cols / w) + 0.3)


@pytest.mark.parametrize('y, x, frequency', [(0, 3, 3), (3, 0, 3), (3, 4, 5), (-3, 4, 5), (1, 1, math.sqrt(2))])
@pytest.mark.parametrize('h, w', [(28, 28), (15, 22)])
def test_a_wave_passes_or_is_removed_by_its_frequency(h, w, y, x, frequency):
    image = 100 + wave(h, w, y, x)
    flat = torch.full_like(image, 100)
    torch.testing.assert_close(low_pass(image, frequency), image)  # the circle itself is inside
    torch.testing.assert_close(low_pass(image, frequency - 0.01), flat)
    torch.testing.assert_close(high_pass(image, frequency), flat)
    torch.testing.assert_close(high_pass(image, frequency - 0.01), image)


def test_low_pass_is_the_fourier_sum_within_the_circle():
    image, h, w, radius = torch.rand(5, 6, dtype=torch.float64), 5, 6, 2
    expected = torch.zeros_like(image)
    for y in range(-2, 3):
        for x in range(-2, 4):
            if y * y + x * x > radius**2:
                continue
            factor = sum(image[r, c].item() * cmath.exp(-2j * math.pi * (y * r / h + x * c / w))
                         for r in range(h) for c in range(w))
            for r in range(h):
                for c in range(w):
                    expected[r, c] += (factor * cmath.exp(2j * math.pi * (y * r / h + x * c / w))).real / (h * w)
    torch.testing.assert_close(low_pass(image, radius), expected)


@pytest.mark.parametrize('radius', [0, 2, 5.5, 14])
def test_low_and_high_add_up_to_the_image(radius):
    image = 255 * torch.rand(2, 3, 28, 21)
    mean = image.mean(dim=(-2, -1), keepdim=True)
    low, high = low_pass(image, radius), high_pass(image, radius)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low + high - mean, image, atol=1e-3, rtol=0)
    torch.testing.assert_close(high.mean(dim=(-2, -1), keepdim=True), mean, atol=1e-3, rtol=0)


def test_radius_0_is_the_mean_and_the_corner_is_the_image():
    image = torch.rand(1, 28, 28)
    torch.testing.assert_close(low_pass(image, 0), image.mean().expand_as(image))
    torch.testing.assert_close(low_pass(image, 14 * math.sqrt(2)), image)


@pytest.mark.parametrize('radius', [-1, '3', None, True, float('nan')])
@pytest.mark.parametrize('filtered', [low_pass, high_pass])
def test_a_wrong_radius_is_told(filtered, radius):
    with pytest.raises(ValueError, match='radius must be a number of cycles per image'):
        filtered(torch.rand(4, 4), radius)
