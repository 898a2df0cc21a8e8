"""Assignments, foreground and aligned regions are what their definitions say, summed up one number at a time."""
import math

import cv2
import numpy as np
import pytest
import torch

from pervit_mm.selfsup.foreground import attention_foreground
from pervit_mm.selfsup.regions import align_regions, overlap_regions
from pervit_mm.selfsup.sinkhorn import sinkhorn
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')


def slow_sinkhorn(logits, epsilon, iterations):
    """Scale prototypes, then samples, in plain numbers."""
    share = [[math.exp(value / epsilon) for value in row] for row in logits.tolist()]
    for _ in range(iterations):
        totals = [sum(row[k] for row in share) for k in range(logits.shape[1])]
        share = [[value / totals[k] / logits.shape[1] for k, value in enumerate(row)] for row in share]
        share = [[value / sum(row) / len(share) for value in row] for row in share]
    return torch.tensor([[value * len(share) for value in row] for row in share], dtype=torch.float64)


@pytest.mark.parametrize('iterations', [1, 3])
def test_assignments_are_those_of_a_slow_loop(iterations):
    logits = torch.randn(7, 4, dtype=torch.float64)
    found = sinkhorn(logits, 0.3, iterations)
    torch.testing.assert_close(found, slow_sinkhorn(logits, 0.3, iterations), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(sinkhorn(logits.float(), 0.3, iterations), found.float(), rtol=1e-4, atol=1e-6)


def test_all_samples_and_all_prototypes_get_equal_shares_in_the_end():
    """Row sums are exact after each iteration; column sums converge to n / K."""
    logits = torch.randn(30, 6, dtype=torch.float64)
    found = sinkhorn(logits, 0.5, 200)
    torch.testing.assert_close(found.sum(1), torch.ones(30).double())
    torch.testing.assert_close(found.sum(0), torch.full((6, ), 5.).double())
    assert (sinkhorn(logits, 0.5, 1).sum(0) - 5).abs().max() > 0.01
    # A prototype that no sample prefers gets its share too. Its weights, e^-2000, are 0 as plain numbers.
    logits = torch.cat([torch.randn(30, 5), torch.full((30, 1), -100.)], dim=1)
    torch.testing.assert_close(sinkhorn(logits, 0.05, 500)[:, 5].sum(), torch.tensor(5.), rtol=0.05, atol=0)


def test_the_foreground_holds_the_share_of_the_blurred_attention_without_specks():
    """Blurred by OpenCV, taken token by token, and components found by a flood."""
    attention = torch.rand(3, 6, 7, dtype=torch.float64).pow(6)
    found = attention_foreground(attention.flatten(1), (6, 7), mass=0.5)
    for image, mask in zip(attention.numpy(), found):
        kernel = cv2.getGaussianKernel(7, 0.6, cv2.CV_64F)
        blurred = cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)
        left, held = {}, 0.
        for value, place in sorted(((blurred[i, j], (i, j)) for i in range(6) for j in range(7)), reverse=True):
            if held >= 0.5 * blurred.sum():
                break
            left[place], held = value, held + value
        expected = torch.zeros(6, 7, dtype=torch.bool)
        while left:
            component = [left.popitem()[0]]
            for i, j in component:  # grows while it is walked through
                component += [place for place in [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
                              if left.pop(place, None) is not None]
            if len(component) > 2:
                expected[tuple(zip(*component))] = True
        assert torch.equal(mask, expected)


def test_two_tokens_are_a_speck_and_three_are_not():
    """Images don't touch each other: the last row of one lies next to the first of another."""
    attention = torch.zeros(2, 12, 12)
    attention[0, 11, 0] = attention[0, 0, 11] = 1
    attention[1, 0, 0] = attention[1, 5, 5] = attention[1, 6, 6] = attention[1, 7, 7] = 1
    # Blurred, a token keeps 0.66² of its attention, and its next neighbors get 0.17 * 0.66.
    found = attention_foreground(attention.flatten(1), (12, 12), mass=0.4)
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[(5, 6, 7), (5, 6, 7)] = True
    assert not found[0].any() and torch.equal(found[1], expected)


def test_a_mass_of_one_takes_all_tokens():
    """Also where a sum of float32 would be 1 before the last ones."""
    attention = (6 * torch.randn(20, 196, generator=torch.Generator().manual_seed(0))).softmax(1)
    assert attention_foreground(attention, (14, 14), mass=1.).all()
    assert not attention_foreground(attention, (14, 14), mass=0.99).all()


def test_overlaps_are_seen_by_each_crop():
    """By hand: crops of 10 x 10 and 4 x 8 pixels that share the columns 6 to 10 and the rows 2 to 10."""
    boxes = torch.tensor([[[0., 0, 10, 10], [6, 2, 10, 10]], [[5., 5, 9, 7], [4, 3, 8, 13]]])
    regions = overlap_regions(boxes, 2)
    torch.testing.assert_close(regions[0, 0, 1], torch.tensor([0.6, 0.2, 1, 1]))
    torch.testing.assert_close(regions[0, 1, 0], torch.tensor([0., 0, 1, 1]))
    torch.testing.assert_close(regions[1, 0, 1], torch.tensor([0., 0, 0.75, 1]))
    torch.testing.assert_close(regions[1, 1, 0], torch.tensor([0.25, 0.2, 1, 0.4]))
    torch.testing.assert_close(regions[:, 0, 0], torch.tensor([[0., 0, 1, 1]] * 2))
    apart = torch.tensor([[[0., 0, 10, 10], [0, 0, 4, 4], [5, 5, 9, 9]]])
    assert overlap_regions(apart, 1).shape == (1, 3, 3, 4)  # two small crops need not overlap
    with pytest.raises(UserError, match='two views of an image do not: set min_overlap'):
        overlap_regions(apart, 2)


def test_the_whole_map_on_its_own_grid_is_itself():
    maps = torch.randn(2, 3, 5, 5)
    whole = torch.tensor([0., 0, 1, 1]).expand(2, 2, 4)
    found = align_regions(maps, whole, 5)
    assert found.shape == (2, 2, 3, 5, 5)
    torch.testing.assert_close(found[:, 1], maps)


def test_places_of_one_point_agree_in_both_crops():
    """A map that holds the place in the image at each token is read alike from two crops: bilinear reading is exact."""
    boxes = torch.tensor([[[0., 0, 24, 24], [6, 4, 22, 20]]])
    regions = overlap_regions(boxes, 2)

    def places(box, tokens):
        x1, y1, x2, y2 = box.tolist()
        centers = (np.arange(tokens) + 0.5) / tokens
        return torch.from_numpy(np.stack(np.meshgrid(x1 + (x2 - x1) * centers, y1 + (y2 - y1) * centers)))[None]

    first = align_regions(places(boxes[0, 0], 12), regions[:, 0, 1][:, None], 4)
    second = align_regions(places(boxes[0, 1], 6), regions[:, 1, 0][:, None], 4)
    inner = np.s_[..., 1:-1, 1:-1]  # at the border of a map, reading holds the value of the last token
    torch.testing.assert_close(first[inner], second[inner])
    torch.testing.assert_close(first[0, 0, :, 0, 0], torch.tensor([8., 6.]).double())


@pytest.mark.parametrize('call, message', [
    (lambda: sinkhorn(torch.zeros(2, 2), 0), 'epsilon must be a number above 0, got 0'),
    (lambda: sinkhorn(torch.zeros(2, 2), 1, 0), 'iterations of sinkhorn must be a positive integer, got 0'),
    (lambda: attention_foreground(torch.ones(1, 9), (3, 3)), 'of a grid of at least 4 x 4 tokens'),
    (lambda: attention_foreground(torch.ones(1, 17), (4, 4)), r'got \(1, 17\) for hw_shape=\(4, 4\)'),
    (lambda: attention_foreground(torch.ones(1, 16), (4, 4), 2), 'mass must be from 0 to 1, got 2'),
])
def test_mistakes(call, message):
    with pytest.raises(UserError, match=message):
        call()
