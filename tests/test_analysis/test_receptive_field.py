"""Receptive field: exact supports, a linear network by hand, and area ratios in closed form."""
from math import ceil, sqrt

import mmpretrain.models  # noqa: F401
import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch import nn

from pervit_mm.analysis.receptive_field import area_ratios, center_gradient, effective_receptive_field
from pervit_mm.models import PerViT
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')

VIT = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
BACKBONES = dict(
    vit=dict(type='VisionTransformer', arch=VIT, img_size=32, patch_size=8, out_type='avg_featmap'),
    deit=dict(type='DistilledVisionTransformer', arch=VIT, img_size=32, patch_size=8),
    swin=dict(type='SwinTransformer', arch=dict(embed_dims=8, depths=[2, 1], num_heads=[1, 2]), img_size=32,
              patch_size=4, window_size=4, out_indices=(1, )),
    convnext=dict(type='ConvNeXt', arch=dict(depths=[1, 1], channels=[8, 12]), stem_patch_size=4, out_indices=(1, )),
    resnet=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8))


def positive(module):
    """Make all weights positive, so that no gradient is lost to a ReLU."""
    with torch.no_grad():
        for param in module.parameters():
            param.abs_()
    return module.eval()


def box(contributions):
    """First and last row, first and last column of what isn't zero."""
    rows, cols = contributions.nonzero(as_tuple=True)
    return rows.min().item(), rows.max().item(), cols.min().item(), cols.max().item()


@pytest.mark.parametrize('arch, side', [('nano', 7), ('tiny', 31)])
def test_stem_sees_exactly_its_support(arch, side):
    stem = positive(PerViT(arch).stem)
    field = center_gradient(stem, torch.rand(1, 3, 96, 96))
    center, reach = 48, side // 2
    assert box(field) == (center - reach, center + reach) * 2


def test_stem_with_equal_weights_counts_paths():
    # A pixel next to the center reaches the token through two positions of the first map, the center through one.
    stem = PerViT('nano').stem.eval()
    with torch.no_grad():
        for param in stem.parameters():
            param.fill_(1)
    field = center_gradient(stem, torch.rand(1, 3, 28, 28))
    paths = torch.tensor([1., 1, 2, 1, 2, 1, 1])
    around = field[14 - 2 - 3:14 - 2 + 4, 14 - 2 - 3:14 - 2 + 4]  # token 3 of 7 is centered on pixel 12
    torch.testing.assert_close(around / around[0, 0], paths[:, None] * paths)
    torch.testing.assert_close(around.sum(), field.sum())


def test_convolution_gives_its_kernel():
    conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
    field = center_gradient(conv, torch.rand(3, 2, 9, 8))
    assert box(field) == (3, 5, 3, 5)
    images = torch.rand(3, 2, 9, 8)
    expected = torch.zeros(9, 8)
    active = conv(images)[:, :, 4, 4] > 0  # (B, 4): the others are cut by the first ReLU
    for kept in active:
        expected[3:6, 3:6] += conv.weight[kept].sum(0).relu().sum(0) / 3
    torch.testing.assert_close(center_gradient(conv, images), expected)


def test_only_rising_pixels_count():
    conv = nn.Conv2d(1, 1, 3, padding=1)
    with torch.no_grad():
        conv.weight[:] = torch.tensor([[-1., 2, 0]] * 3)
        conv.bias.fill_(9)
        field = center_gradient(conv, torch.zeros(2, 1, 5, 5))  # runs under no_grad too
        assert field[2].tolist() == [0, 0, 2, 0, 0] and field.sum() == 6
        conv.bias.fill_(-9)
        assert center_gradient(conv, torch.zeros(2, 1, 5, 5)).count_nonzero() == 0


def test_last_block_of_pervit_sees_all_and_windows_confine_it():
    model = randomize(PerViT(TINY_ARCH, img_size=32)).eval()
    images = torch.randn(2, 3, 32, 32)
    field = effective_receptive_field(model, images)
    assert field.shape == (32, 32) and field.count_nonzero() > 0.9 * field.numel()
    # By definition, from the seam of the backbone.
    inputs = images[:1].clone().requires_grad_()
    tokens, grid = model.embed(inputs)
    *_, tokens = model.run_blocks(tokens, grid, model.position_terms(grid))
    center = tokens[0, grid[0] // 2 * grid[1] + grid[1] // 2].relu().sum()
    by_hand = torch.autograd.grad(center, inputs)[0].relu().sum((0, 1))
    torch.testing.assert_close(effective_receptive_field(model, images[:1], block=2), by_hand)
    # Windows of one token and no position encoding leave the stem's support, 3 + 2·2 px.
    alone = randomize(PerViT(TINY_ARCH, img_size=32, window_size=1, cpe=False)).eval()
    top, bottom, left, right = box(effective_receptive_field(alone, images))
    assert 16 - 3 <= top and bottom <= 16 + 3 and 16 - 3 <= left and right <= 16 + 3


@pytest.mark.parametrize('name', BACKBONES)
def test_other_backbones_have_one_too(name):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = randomize(MODELS.build(BACKBONES[name]))
    model.eval()  # gives None with some of them
    field = effective_receptive_field(model, torch.randn(1, 3, 32, 32))
    assert field.shape == (32, 32) and field.isfinite().all() and field.sum() > 0 and (field >= 0).all()
    for param in model.parameters():
        assert param.grad is None


def test_area_ratios_of_a_uniform_map():
    # Squares of odd side: the smallest one with side² ≥ share · 81.
    sides = [ceil(sqrt(share) * 9) // 2 * 2 + 1 for share in (0.2, 0.3, 0.5)]
    assert sides == [5, 5, 7]
    assert area_ratios(torch.ones(9, 9)) == [side**2 / 81 for side in sides] + [1]
    # On an even side the last square is clipped: rows 1 to 7 of 8, then all.
    assert area_ratios(torch.ones(8, 8), (0.7, 49 / 64, 0.8)) == [49 / 64, 49 / 64, 1]


def test_the_square_is_around_the_place_where_the_token_looks():
    """The stem of PerViT-nano sees 7 x 7 pixels around 12 of 28 from its central token, and a patch of ViT itself."""
    field = torch.zeros(28, 28)
    field[9:16, 9:16] = 1
    assert area_ratios(field, (1, )) == [49 / 784]
    patch = torch.zeros(32, 32)
    patch[16:24, 16:24] = 1
    assert area_ratios(patch, (1, )) == [9**2 / 32**2], 'squares have an odd side'


def test_area_ratios_of_points():
    point = torch.zeros(9, 12)
    point[4, 6] = 3
    assert area_ratios(point) == [1 / 108] * 4
    point[6, 6] = 1  # two rows down: a square of 5
    assert area_ratios(point, (0.75, 0.76)) == [1 / 108, 25 / 108]


@pytest.mark.parametrize('act, message', [
    (lambda: area_ratios(torch.zeros(4, 4)), 'contributions must be above zero somewhere'),
    (lambda: area_ratios(torch.ones(4, 4), (0.5, 50)), 'shares must be .* got 50'),
    (lambda: center_gradient(nn.Identity(), torch.ones(0, 3, 4, 4)), 'at least one image, got none'),
    (lambda: effective_receptive_field(PerViT(TINY_ARCH, img_size=16).train(), torch.ones(1, 3, 16, 16)), 'eval mode'),
    (lambda: effective_receptive_field(PerViT(TINY_ARCH, img_size=16).eval(), torch.ones(1, 3, 16, 16), 3),
     'one of 3 blocks, got 3'),
])
def test_mistakes_are_named(act, message):
    with pytest.raises(UserError, match=message):
        act()
