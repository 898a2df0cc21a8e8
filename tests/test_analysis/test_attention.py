"""Distances, entropy and rings of attention, against closed forms."""
import math

import pytest
import torch
from made_attention import one_hot_at

from pervit_mm.analysis import (
    attention_distance,
    attention_entropy,
    nonlocality,
    normalize_attention,
    ring_edges,
    ring_of_heads,
    ring_shares,
    uniform_distance,
    uniform_shares,
)
from pervit_mm.ops import grid_step
from pervit_mm.utils.errors import UserError

GRIDS = [(1, 1), (2, 2), (3, 5), (7, 7)]


@pytest.mark.parametrize('hw_shape', GRIDS)
def test_distance_of_uniform_attention(hw_shape):
    """Sum over offsets of coverage times distance, over the square of the number of tokens."""
    h, w = hw_shape
    expected = sum((h - abs(dy)) * (w - abs(dx)) * math.hypot(dy, dx)
                   for dy in range(1 - h, h) for dx in range(1 - w, w)) / (h * w)**2
    attention = torch.full((2, 3, h * w, h * w), 0.3)
    for unit, factor in (('token', 1), ('unit', 1 / max(h - 1, w - 1, 1)), ('pixel', 16)):
        distance = attention_distance(attention, hw_shape, unit, stride=16)
        torch.testing.assert_close(distance, torch.full((2, 3), expected * factor))
        assert uniform_distance(hw_shape, unit, 16) == pytest.approx(expected * factor)


def test_distance_of_attention_to_one_key():
    """The right neighbor is one token away, except for the last column, which looks at itself."""
    attention = one_hot_at((3, 4), 0, 1)
    assert attention_distance(attention, (3, 4)).item() == pytest.approx(3 / 4)
    assert attention_distance(torch.eye(12), (3, 4)).item() == 0


def test_extra_tokens_are_dropped_and_rows_made_to_sum_to_one():
    """Class tokens take most of the attention, and the distance is as if they weren't there."""
    generator = torch.Generator().manual_seed(0)
    inner = torch.rand(2, 9, 9, generator=generator).softmax(-1)
    whole = torch.rand(2, 11, 11, generator=generator)
    whole[:, 2:, 2:] = 0.01 * inner
    torch.testing.assert_close(normalize_attention(whole, 2), inner)
    torch.testing.assert_close(attention_distance(whole, (3, 3), num_extra_tokens=2), attention_distance(inner, (3, 3)))


def test_a_row_without_mass_is_uniform():
    assert normalize_attention(torch.zeros(4, 4)).eq(0.25).all()


def test_a_diverged_model_does_not_look_healthy():
    attention = torch.ones(2, 9, 9)
    attention[1, 3, 4] = torch.nan
    found = attention_distance(attention, (3, 3))
    assert found[0].isfinite() and found[1].isnan()


def test_nonlocality_is_not_normalized_as_distance_is():
    """Φp ≡ 1 has the mean distance as its nonlocality, times one key: the mean over q and k, not the sum over k."""
    ones = torch.ones(25, 25)
    step = grid_step((5, 5))
    expected = uniform_distance((5, 5)) * step
    assert nonlocality(ones, (5, 5), step).item() == pytest.approx(expected)
    assert nonlocality(ones / 2, (5, 5), step).item() == pytest.approx(expected / 2)
    assert attention_distance(ones / 2, (5, 5)).item() * step == pytest.approx(expected)


def test_entropy():
    assert attention_entropy(torch.ones(1, 12, 12), (3, 4)).item() == pytest.approx(math.log(12))
    assert attention_entropy(torch.eye(12), (3, 4)).item() == 0


def test_rings_by_definition():
    """Mass of each ring, one pair of tokens at a time; shares sum to one."""
    hw_shape, edges = (3, 4), (1.0, 2.5)
    attention = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(0)).double()
    rows = attention / attention.sum(-1, keepdim=True)
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for q in range(12):
        for k in range(12):
            distance = math.hypot(q // 4 - k // 4, q % 4 - k % 4)
            ring = sum(distance > edge for edge in edges)
            expected[:, ring] += rows[:, q, k] / 12
    shares = ring_shares(attention, hw_shape, edges)
    torch.testing.assert_close(shares, expected)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, dtype=torch.float64))


def test_rings_of_identity_are_central():
    assert ring_shares(torch.eye(49), (7, 7), ring_edges((7, 7))).tolist() == [1, 0, 0, 0]


def test_default_edges_scale_with_the_grid():
    assert ring_edges((14, 14)) == (1.5, 3.5, 6.5)
    assert ring_edges((7, 7)) == (0.75, 1.75, 3.25)


@pytest.mark.parametrize('distance, ring', [(0, 0), (2, 1), (4, 2), (8, 3)])
def test_ring_of_a_head_holds_its_median_distance(distance, ring):
    """On a wide grid most queries reach the key, so its distance is the median."""
    attention = one_hot_at((2, 30), 0, distance)
    edges = (1.5, 3.5, 6.5)
    assert ring_of_heads(ring_shares(attention, (2, 30), edges), uniform_shares((2, 30), edges)).item() == ring


def test_a_flat_head_is_marked():
    attention = torch.stack([torch.ones(49, 49), torch.eye(49)])
    uniform = uniform_shares((7, 7), (1., 2.))
    assert ring_of_heads(ring_shares(attention, (7, 7), (1., 2.)), uniform).tolist() == [-1, 0]
    torch.testing.assert_close(uniform_shares((7, 7), (1., 2.)).sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize('call, words', [
    (lambda a: attention_distance(a, (3, 3)), 'attention must be .* hw_shape=\\(3, 3\\)'),
    (lambda a: attention_distance(a, (3, 4), unit='km'), "unit must be one of .* got 'km'"),
    (lambda a: attention_distance(a, (3, 4), unit='pixel'), 'needs the stride'),
    (lambda a: ring_shares(a, (3, 4), (2., 1.)), 'edges must be distances in tokens that rise'),
    (lambda a: ring_shares(a, (3, 4), ()), 'edges must be'),
    (lambda a: ring_shares(a, (3, 4), (0., 1.)), 'edges must be'),
])
def test_mistakes(call, words):
    with pytest.raises(UserError, match=words):
        call(torch.ones(12, 12))
