"""Aligned maps and heads that look to one side."""
import pytest
import torch
from made_attention import one_hot_at

from pervit_mm.analysis import aligned_map, coverage, offset_heads
from pervit_mm.utils.errors import UserError


def test_coverage_counts_pairs():
    counted = torch.zeros(5, 7, dtype=torch.long)
    for q in range(12):
        for k in range(12):
            counted[k // 4 - q // 4 + 2, k % 4 - q % 4 + 3] += 1
    assert torch.equal(coverage((3, 4)), counted)


def test_a_uniform_head_is_flat_only_if_corrected():
    """Uncorrected, it peaks at the query, where all queries have a key."""
    uniform = torch.ones(2, 12, 12)
    torch.testing.assert_close(aligned_map(uniform, (3, 4)), torch.full((2, 5, 7), 1 / 12))
    uncorrected = aligned_map(uniform, (3, 4), corrected=False)
    torch.testing.assert_close(uncorrected, coverage((3, 4)).expand(2, -1, -1) / 144)
    assert offset_heads(uniform, (3, 4)) == []


@pytest.mark.parametrize('offset', [(0, 1), (-1, 0), (2, -2)])
def test_a_head_that_looks_to_one_side_is_found(offset):
    """At the border it looks at itself, and all queries that can look to the side do."""
    attention = torch.stack([torch.eye(42), one_hot_at((6, 7), *offset).float()])
    peak = aligned_map(attention, (6, 7))[1, 5 + offset[0], 6 + offset[1]]
    assert peak == 1
    assert offset_heads(attention, (6, 7)) == [(1, offset, 1.0)]
    assert offset_heads(attention.expand(3, -1, -1, -1), (6, 7)) == [(1, offset, 1.0)]


def test_a_head_that_looks_to_both_sides_is_not_one():
    both = one_hot_at((6, 7), 0, 1) + one_hot_at((6, 7), 0, -1)
    assert offset_heads(both[None], (6, 7)) == []


def test_a_far_offset_is_not_one():
    assert offset_heads(one_hot_at((8, 8), 0, 3)[None], (8, 8)) == []


def test_mistakes():
    with pytest.raises(UserError, match='attention must be'):
        offset_heads(torch.ones(12, 12), (3, 4))
