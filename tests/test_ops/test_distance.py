"""Distances of a grid against their definition."""
import oracle
import pytest
import torch

from pervit_mm import ops
from pervit_mm.ops.distance import fold_offsets

GRIDS = [(5, 5), (3, 7), (6, 2), (1, 6), (4, 1), (1, 1)]


@pytest.mark.parametrize('hw', GRIDS)
def test_offset_map_holds_every_distance(hw):
    expected = oracle.distances(hw, 0.3).flatten(1).float()
    torch.testing.assert_close(ops.pairwise_distances(hw, 0.3), expected)


@pytest.mark.parametrize('hw', GRIDS)
def test_expanded_offsets_hold_every_distance_with_margin(hw):
    offsets = ops.offset_distances(hw, 0.5, margin=2)
    windows = ops.expand_offsets(offsets[None], hw, margin=2).flip(1, 2).reshape(hw[0] * hw[1], hw[0] + 4, hw[1] + 4)
    torch.testing.assert_close(windows, oracle.distances(hw, 0.5, 2).float())


@pytest.mark.parametrize('few', [True, False], ids=['few launches', 'loop'])
@pytest.mark.parametrize('hw', GRIDS)
def test_folding_is_the_gradient_of_expanding(monkeypatch, few, hw):
    """The form for GPUs and that for the CPU, onto a map that has values already."""
    monkeypatch.setattr('pervit_mm.ops.distance.few_launches', lambda device: few)
    offsets = torch.randn(2, 2 * hw[0] + 1, 2 * hw[1] + 1, requires_grad=True)
    windows = ops.expand_offsets(offsets, hw, margin=1)
    grad = torch.randn_like(windows)
    windows.backward(grad)
    before = torch.randn_like(offsets)
    folded = before.clone()
    fold_offsets(grad, folded)
    torch.testing.assert_close(folded, before + offsets.grad, atol=1e-5, rtol=1e-5)


def test_grid_step_spans_the_longer_side():
    assert ops.grid_step((14, 14)) == 2 / 13
    assert ops.grid_step((7, 21)) == ops.grid_step((21, 7)) == 0.1
    assert ops.grid_step((1, 1), pretrain_hw=(14, 14)) == 2 / 13  # no spacing of its own
    assert ops.grid_step((1, 1)) == 2
