"""Matches between crops: places are right, against a loop that follows the definition in the image's own pixels."""
from math import dist

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_ARCH, randomize
from torch import nn

from pervit_mm.evaluation import region_matching
from pervit_mm.evaluation.region_matching import RegionMatching, region_matching_accuracy, token_stride
from pervit_mm.models import PerViT
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')

SIDE = 4  # pixels of a token


class Patches(nn.Module):
    """A backbone whose tokens are the pixels of their patches, as tokens or as a map."""

    def __init__(self, as_map=False, extra=0):
        super().__init__()
        self.as_map, self.num_extra_tokens = as_map, extra

    def forward(self, x):
        tokens = F.unfold(x, SIDE, stride=SIDE)
        if self.as_map:
            return (tokens.unflatten(2, (x.shape[2] // SIDE, x.shape[3] // SIDE)), )
        tokens = tokens.transpose(1, 2)
        return torch.cat((tokens.new_ones(len(x), self.num_extra_tokens, tokens.shape[2]), tokens), 1)


class Noise(nn.Module):
    """A backbone that looks at nothing."""

    def forward(self, x):
        return (torch.randn(len(x), 8, x.shape[2] // SIDE, x.shape[3] // SIDE), )


class Rows(nn.Module):
    """A backbone whose tokens are no square grid."""

    def forward(self, x):
        return torch.rand(len(x), 12, 8)


class Places(nn.Module):
    """A backbone that knows the place in the crop and nothing of the image."""

    def forward(self, x):
        n = x.shape[2] // SIDE
        return torch.eye(n * n).expand(len(x), -1, -1)


@pytest.mark.parametrize('backbone', [Patches(), Patches(as_map=True), Patches(extra=1)])
def test_the_stride_is_that_of_the_output(backbone):
    assert token_stride(backbone.train(), torch.rand(2, 3, 24, 24)) == SIDE and backbone.training
    assert token_stride(PerViT('tiny'), torch.rand(1)) == 16


def by_definition(backbone, images, corners, crop, tolerance):
    """Share of right matches in percent, the same for chance, and the number of tokens."""
    right, chance, counted, n = 0, 0, 0, crop // SIDE
    for image, ((top_a, left_a), (top_b, left_b)) in zip(images, corners):
        a, b = (backbone(image[None, :, top:top + crop, left:left + crop])[0][0].flatten(1).T
                for top, left in ((top_a, left_a), (top_b, left_b)))
        centers_b = [(top_b + (i + 0.5) * SIDE, left_b + (j + 0.5) * SIDE) for i in range(n) for j in range(n)]
        for number, token in enumerate(a):
            center = top_a + (number // n + 0.5) * SIDE, left_a + (number % n + 0.5) * SIDE
            if not (top_b <= center[0] < top_b + crop and left_b <= center[1] < left_b + crop):
                continue
            near = [dist(center, other) <= tolerance * SIDE for other in centers_b]
            best = max(range(n * n), key=lambda other: F.cosine_similarity(token, b[other], dim=0).item())
            right, chance, counted = right + near[best], chance + sum(near) / len(near), counted + 1
    return 100 * right / counted, 100 * chance / counted, counted


@pytest.mark.parametrize('backbone', [Patches(), Patches(as_map=True), Patches(extra=2)])
@pytest.mark.parametrize('offsets', [[(4, 0), (0, -8), (-8, 4)], [(0, 0)]])
def test_unique_patches_at_whole_token_shifts_are_always_found(backbone, offsets):
    found = region_matching_accuracy(backbone, torch.rand(70, 2, 28, 28), offsets, 16, tolerance=0.)
    assert found.accuracy == 100
    if offsets == [(0, 0)]:
        assert found == RegionMatching(100., 100 / 16, 70 * 16)


@pytest.mark.parametrize('tolerance', [0., 0.75, 1., 1.5])
@pytest.mark.parametrize('offsets', [[(8, 4), (-3, 5), (2, -11)], [(-6, -6)]])
def test_matches_are_those_of_the_definition(monkeypatch, tolerance, offsets):
    """Also at shifts of parts of a token, with a random network and in parts of three images."""
    monkeypatch.setattr(region_matching, '_BATCH', 3)
    backbone = randomize(PerViT(TINY_ARCH, img_size=16, in_channels=1, out_type='featmap', drop_path_rate=0.5)).train()
    images = torch.rand(7, 1, 30, 28)
    found = region_matching_accuracy(backbone, images, offsets, 16, tolerance, seed=3)
    assert backbone.training
    backbone.eval()
    corners = list(region_matching._draw(7, (30, 28), offsets, 16, 3))
    with torch.no_grad():
        expected = by_definition(backbone, images, corners, 16, tolerance)
    assert (found.accuracy, found.chance, found.tokens) == pytest.approx(expected)


def test_corners_are_inside_at_the_offsets_asked_for_and_by_the_seed():
    offsets = [(8, -4), (0, 12), (-12, 12)]
    corners = list(region_matching._draw(300, (28, 30), offsets, 16, 0))
    assert {(b[0] - a[0], b[1] - a[1]) for a, b in corners} == set(offsets)
    tops, lefts = ([corner[axis] for pair in corners for corner in pair] for axis in (0, 1))
    assert (min(tops), max(tops), min(lefts), max(lefts)) == (0, 12, 0, 14), 'all places occur and none is outside'
    assert corners == list(region_matching._draw(300, (28, 30), offsets, 16, 0))
    assert corners != list(region_matching._draw(300, (28, 30), offsets, 16, 1))


def test_random_features_are_at_chance():
    found = region_matching_accuracy(Noise(), torch.rand(400, 1, 28, 28), [(8, 0), (0, 8)], 16)
    assert found.tokens == 400 * 8
    # Two rows, or columns, at the border of B: 3 tokens within reach at the ends of the first and 4 between; then 4, 5.
    assert found.chance == pytest.approx(100 * (2 * 3 + 2 * 4 + 2 * 4 + 2 * 5) / 8 / 16)
    deviation = 100 * (found.chance / 100 * (1 - found.chance / 100) / found.tokens)**0.5
    assert abs(found.accuracy - found.chance) < 5 * deviation


def test_features_of_the_place_in_the_crop_are_always_wrong_at_large_offsets():
    """A token of A takes the token of B at the same place, which is two tokens away in the image."""
    assert region_matching_accuracy(Places(), torch.rand(5, 1, 28, 28), [(8, 0)], 16).accuracy == 0
    assert region_matching_accuracy(Places(), torch.rand(5, 1, 28, 28), [(4, 0)], 16).accuracy == 100


def test_a_model_that_has_a_backbone_will_do():
    model = nn.Module()
    model.backbone = Patches()
    images = torch.rand(3, 1, 28, 28)
    assert region_matching_accuracy(model, images, [(4, 4)], 16) == region_matching_accuracy(
        Patches(), images, [(4, 4)], 16)


def test_mistakes_are_told():
    images, good = torch.rand(2, 1, 28, 28), [(8, 0)]
    for arguments, message in (
            ((Patches(), images[:0], good, 16), r'images must be a tensor .*got \(0, 1, 28, 28\)'),
            ((Patches(), images, good, 29), 'crop must be a side in pixels from 1 to 28, .* got 29'),
            ((Patches(), images, [], 16), 'offsets must be steps'),
            ((Patches(), images, [(8., 0)], 16), r'whole pixels, .* got \[\(8.0, 0\)\]'),
            ((Patches(), images, [(13, 0)], 16), 'at most 12 down and 12 right'),
            ((Patches(), images, [(0, -8)], 8), 'at most 7 down and 7 right'),
            ((Patches(), images, good, 16, -1), 'tolerance must be .* got -1'),
            ((Patches(), torch.rand(1, 1, 40, 40), [(15, 15)], 16), 'leave no center of a token inside'),
            ((nn.Flatten(), images, good, 16), r"got \(2, 256\): choose another out_type, 'raw' or 'featmap'"),
            ((Rows(), images, good, 16), r'has 12 tokens \(2, 12, 8\), which are no square grid')):
        with pytest.raises(UserError, match=message):
            region_matching_accuracy(*arguments)
