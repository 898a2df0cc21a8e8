"""Feature maximization: a linear unit by hand, the units by definition, and a rise on a real model."""
import mmpretrain.models  # noqa: F401
import numpy as np
import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from pervit_mm.analysis.maximization import choose_units, draw_units, maximize, total_variation, unit_activations
from pervit_mm.models import PerViT
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')

VIT = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)
BACKBONES = dict(
    vit=dict(type='VisionTransformer', arch=VIT, img_size=16, patch_size=8),
    beit=dict(type='BEiTViT', arch=VIT, img_size=16, patch_size=8),
    swin=dict(type='SwinTransformer', arch=dict(embed_dims=16, depths=[2], num_heads=[2]), img_size=16, patch_size=4,
              window_size=2, out_indices=(0, )))


def pervit():
    return randomize(PerViT(TINY_ARCH, img_size=16)).eval()


def test_unit_is_the_mean_over_tokens_of_the_activation():
    model, inputs = pervit(), torch.randn(2, 3, 16, 16)
    tokens, grid = model.embed(inputs)
    terms = model.position_terms(grid)
    before, _ = [tokens, *model.run_blocks(tokens, grid, terms)][1:3]
    block = model.blocks[1]
    middle = before + block.attn(block.attention_input(before, grid), grid, terms[1], block.window_size)
    expected = block.ffn.act(block.ffn.fc1(block.norm2(middle))).mean(1)
    torch.testing.assert_close(unit_activations(model, inputs, 1), expected)
    torch.testing.assert_close(unit_activations(model, inputs, -2), expected)


@pytest.mark.parametrize('name', BACKBONES)
def test_class_tokens_are_left_out(name):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = randomize(MODELS.build(BACKBONES[name]))
    model.eval()
    ffn = [module for key, module in model.named_modules() if key.endswith('ffn')][0]
    seen = []
    handle = ffn.layers[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))  # the second Linear
    values = unit_activations(model, torch.randn(2, 3, 16, 16), 0)
    handle.remove()
    tokens = dict(vit=5, beit=5, swin=16)[name]
    assert seen[0].shape[:2] == (2, tokens)
    torch.testing.assert_close(values, seen[0][:, tokens % 2:].mean(1))
    assert not any(module._forward_hooks for module in model.modules())


def test_linear_unit_gives_the_signs_of_its_weight():
    weight = torch.randn(3, 9, 8)
    steps = []
    image = maximize(lambda pixels: (weight * pixels).sum((1, 2, 3)), torch.full((3, 9, 8), 0.5), steps=40, copies=2,
                     variation=0, jitter=0, callback=lambda step, value: steps.append(step))
    torch.testing.assert_close(image, (weight > 0).float())
    assert steps == list(range(1, 41))


def test_jitter_spreads_a_unit_of_one_pixel():
    # One pixel counts. Rolled by up to 2 px, a copy brings any pixel of the 5 x 5 around to it, and no other.
    image = maximize(lambda pixels: pixels[:, 0, 10, 12], torch.zeros(1, 28, 28), steps=150, variation=0, jitter=2)
    expected = torch.zeros(28, 28)
    expected[8:13, 10:15] = 1
    assert ((image[0] > 0).float() == expected).all()
    four = maximize(lambda pixels: pixels[:, 0, 10, 12], torch.zeros(1, 28, 28), steps=300, variation=0)
    rows, cols = four[0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (6, 14, 8, 16)  # a seventh of 28 is 4


def test_variation_alone_smooths():
    start = torch.rand(3, 12, 12)
    image = maximize(lambda pixels: 0 * pixels.sum((1, 2, 3)), start, steps=60, variation=1)
    assert total_variation(image[None]) < total_variation(start[None]) / 2


def test_total_variation_of_a_ramp():
    ramp = torch.arange(5.).expand(4, 5)  # rises by one to the right
    across, diagonal = (4 * 4)**0.5, (3 * 4)**0.5
    assert total_variation(ramp[None, None]).item() == pytest.approx(across + 2 * diagonal)
    assert total_variation(ramp.T[None, None]).item() == pytest.approx(across + 2 * diagonal)
    # Channels count by their mean, images by themselves.
    images = torch.stack([torch.stack([ramp, 3 * ramp]), torch.ones(2, 4, 5)])
    assert total_variation(images).tolist() == pytest.approx([2 * (across + 2 * diagonal), 0])


def test_activation_of_a_model_rises():
    model, start = pervit(), torch.rand(3, 16, 16)
    trace = []

    def activation(pixels):
        return unit_activations(model, (pixels - 0.5) / 0.25, 1)[:, 13]

    with torch.no_grad():
        image = maximize(activation, start, steps=60, copies=3, callback=lambda step, value: trace.append(value))
        first, second = (maximize(activation, start, steps=2, copies=2, seed=5) for _ in range(2))
        assert activation(image[None]) > activation(torch.rand(50, 3, 16, 16)).max()
    assert sum(trace[-20:]) > 1.2 * sum(trace[:20])  # what is maximized: the mean over the changed copies
    torch.testing.assert_close(first, second, rtol=0, atol=0)  # seeded
    assert image.min() >= 0 and image.max() <= 1 and not image.requires_grad
    assert all(param.grad is None for param in model.parameters())


def test_units_are_spread_or_checked():
    assert choose_units(100) == [0, 25, 50, 75]
    assert choose_units(3, count=3) == [0, 1, 2]
    assert choose_units(10, [9, 0]) == [9, 0]


def test_pictures_stand_in_their_places():
    images = np.arange(2 * 3, dtype=np.uint8).reshape(2, 3, 1, 1, 1) + np.zeros((28, 28, 3), np.uint8)
    picture = draw_units([5, 70], images, np.ones((2, 3)))
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    side, gap, title = 112, 8, 20
    for row in range(2):
        top = row * (title + side + gap) + title
        for column in range(3):
            left = gap + column * (side + gap) + (gap if column else 0)
            assert (picture[top:top + side, left:left + side] == images[row, column, 0, 0]).all()
            assert (picture[top:top + side, left - gap:left] == 255).all()


def linear(pixels):
    return pixels.sum((1, 2, 3))


@pytest.mark.parametrize('act, message', [
    (lambda: unit_activations(torch.nn.Conv2d(3, 3, 1), torch.ones(1, 3, 16, 16), 0), 'backbone Conv2d, in which no'),
    (lambda: unit_activations(pervit(), torch.ones(1, 3, 16, 16), 3), 'one of 3 blocks, got 3'),
    (lambda: unit_activations(PerViT(TINY_ARCH, img_size=16, out_indices=0).eval(), torch.ones(1, 3, 16, 16), 2),
     'block=2 does not run'),
    (lambda: choose_units(10, [3, 10]), 'from 0 to 9 .* got 10'),
    (lambda: choose_units(10, count=11), 'count must be from 1 to 10'),
    (lambda: maximize(linear, torch.ones(3, 4, 4), steps=0), 'steps must be .* got 0'),
    (lambda: maximize(linear, torch.ones(3, 4, 4), copies=1.5), 'copies must be .* got 1.5'),
    (lambda: maximize(linear, 255 * torch.ones(3, 4, 4)), 'values from 0 to 1, .* from 255 to 255'),
])
def test_mistakes_are_named(act, message):
    with pytest.raises(UserError, match=message):
        act()
