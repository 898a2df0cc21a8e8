"""Corruptions against what their definition gives on average or exactly."""
import colorsys
import math

import pytest
import torch

from pervit_mm.evaluation import corruptions
from pervit_mm.evaluation.corruptions import CORRUPTIONS, RANDOM_CORRUPTIONS, amount_of, corrupt


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photo(side=64, channels=3):
    """A smooth picture with edges, away from black and white."""
    y, x = torch.meshgrid(torch.linspace(0, 6, side), torch.linspace(0, 6, side), indexing='ij')
    picture = 128 + 60 * torch.sin(x * y / 3) + 30 * (x > y)
    return torch.stack([picture + 5 * c for c in range(channels)])[None]


def psnr(a, b):
    return 10 * math.log10(255**2 / ((a - b)**2).mean().item())


def test_gaussian_noise_has_its_deviation():
    noise = corruptions.gaussian_noise(torch.full((1, 1, 300, 300), 100.), 0.1, seeded()) - 100
    assert noise.mean().item() == pytest.approx(0, abs=0.4)  # five standard errors
    assert noise.std().item() == pytest.approx(25.5, rel=0.02)


def test_shot_noise_has_the_mean_and_the_variance_of_poisson():
    image = torch.full((1, 1, 300, 300), 51.)  # 0.2 of white, so 12 photons of 60
    noisy = corruptions.shot_noise(image, 60, seeded())
    assert noisy.mean().item() == pytest.approx(51, rel=0.01)
    assert noisy.var().item() == pytest.approx(12 * (255 / 60)**2, rel=0.03)
    torch.testing.assert_close(noisy / 255 * 60, (noisy / 255 * 60).round())


def test_impulse_noise_makes_half_of_its_share_black_and_half_white():
    noisy = corruptions.impulse_noise(torch.full((1, 1, 300, 300), 100.), 0.2, seeded())
    assert [(noisy == value).float().mean().item() for value in (0, 255, 100)] == pytest.approx([.1, .1, .8], abs=.006)


def test_gaussian_blur_of_a_point_is_the_gaussian():
    image = torch.zeros(1, 2, 21, 31)
    image[0, 1, 10, 15] = 1
    y, x = torch.arange(21.)[:, None] - 10, torch.arange(31.) - 15
    expected = torch.exp(-(y**2 + x**2) / (2 * 1.5**2))
    blurred = corruptions.gaussian_blur(image, 1.5)
    torch.testing.assert_close(blurred[0, 1], expected / expected.sum(), atol=1e-4, rtol=0)
    assert blurred[0, 0].eq(0).all()
    flat = torch.full((1, 1, 5, 4), 7.)
    torch.testing.assert_close(corruptions.gaussian_blur(flat, 3.), flat)  # borders too


def test_contrast_scales_the_deviation_and_keeps_the_mean():
    image = photo()
    changed = corruptions.contrast(image, 0.3)
    torch.testing.assert_close(changed.mean((2, 3)), image.mean((2, 3)))
    torch.testing.assert_close(changed.std((2, 3)), 0.3 * image.std((2, 3)))


def test_brightness_raises_the_value_of_hsv_alone():
    image = 255 * torch.rand(1, 3, 4, 4)
    image[0, :, 0, 0] = 0
    changed = corruptions.brightness(image, 0.2)
    for before, after in zip(image[0].flatten(1).T.tolist(), changed[0].flatten(1).T.tolist()):
        hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in before))
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        assert after == pytest.approx([255 * channel for channel in expected], abs=1e-2)
    gray = torch.tensor([[[[0., 100., 250.]]]])
    torch.testing.assert_close(corruptions.brightness(gray, 0.2), torch.tensor([[[[51., 151., 255.]]]]))


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('side', [28, 96])
def test_jpeg_loses_more_with_each_strength(channels, side):
    image = (photo(side, channels) + 20 * torch.randn(1, channels, side, side, generator=seeded())).clamp(0, 255)
    quality = [psnr(corrupt(image, 'jpeg_compression', strength), image) for strength in range(1, 6)]
    assert quality == sorted(quality, reverse=True) and len(set(quality)) == 5


@pytest.mark.parametrize('name', CORRUPTIONS)
@pytest.mark.parametrize('side', [28, 96])
def test_every_corruption_grows_and_stays_in_range(name, side):
    image = photo(side)
    errors = [(corrupt(image, name, strength, seeded()) - image).abs().mean().item() for strength in range(1, 6)]
    assert errors == sorted(errors) and errors[0] > 0
    strong = corrupt(255 * torch.rand(1, 3, side, side), name, 5, seeded())
    assert strong.dtype == torch.float32 and 0 <= strong.min() and strong.max() <= 255


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_only_noise_is_drawn_by_chance(name):
    image = photo(28)
    first, again, other = (corrupt(image, name, 3, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name not in RANDOM_CORRUPTIONS)


def test_strengths_go_by_the_size_of_the_image():
    assert amount_of('gaussian_noise', 5, (64, 80)) == 0.10 and amount_of('gaussian_noise', 5, (65, 80)) == 0.38
    assert amount_of('gaussian_blur', 5, (32, 50)) == 1.0 and amount_of('gaussian_blur', 5, (16, 50)) == 0.5
    assert amount_of('gaussian_blur', 5, (224, 224)) == 6.0 and amount_of('gaussian_blur', 5, (448, 500)) == 12.0


@pytest.mark.parametrize('name, strength, message', [
    ('fog', 1, "name must be one of gaussian_noise, .*, got 'fog'"),
    ('contrast', 6, 'strength must be a whole number from 1 to 5, got 6'),
    ('contrast', 1.0, 'strength must .* got 1.0'),
    ('contrast', True, 'strength must .* got True'),
])
def test_wrong_arguments_are_told(name, strength, message):
    with pytest.raises(ValueError, match=message):
        corrupt(photo(8), name, strength)


def test_jpeg_of_two_channels_is_told():
    with pytest.raises(ValueError, match='images must have 1 or 3 channels for JPEG, got 2'):
        corrupt(photo(8, 2), 'jpeg_compression', 1)
