"""Rollout against closed forms."""
import pytest
import torch

from pervit_mm.analysis.rollout import attention_rollout, rollout_map
from pervit_mm.utils.errors import UserError


@pytest.mark.parametrize('blocks', [1, 2, 5])
def test_uniform_blocks_have_a_closed_form(blocks):
    n = 9
    rollout = attention_rollout([torch.full((2, 3, n, n), 1 / n)] * blocks)
    rest = (1 - 1 / 2**blocks) / n
    expected = torch.full((2, n, n), rest) + torch.eye(n) / 2**blocks
    assert expected[0, 0, 0].item() == pytest.approx(1 / n + (1 - 1 / n) / 2**blocks)
    torch.testing.assert_close(rollout, expected)
    torch.testing.assert_close(rollout_map(rollout), torch.full((2, n), 1 / n))


def test_later_blocks_multiply_from_the_left():
    # Block 0: token 1 looks at token 0. Block 1: token 2 looks at token 1. So token 2 sees token 0 and not vice versa.
    first, second = torch.eye(3), torch.eye(3)
    first[1], second[2] = torch.tensor([1., 0, 0]), torch.tensor([0., 1, 0])
    rollout = attention_rollout(a[None, None] for a in (first, second))
    torch.testing.assert_close(rollout[0], torch.tensor([[1, 0, 0], [.5, .5, 0], [.25, .25, .5]]))
    torch.testing.assert_close(rollout_map(rollout)[0], torch.tensor([1.75, .75, .5]) / 3)


def test_heads_are_averaged():
    one, other = torch.rand(4, 4).softmax(-1), torch.rand(4, 4).softmax(-1)
    torch.testing.assert_close(
        attention_rollout([torch.stack([one, other])[None]])[0], (one + other) / 4 + torch.eye(4) / 2)


def test_mistakes_are_named():
    with pytest.raises(UserError, match='at least one block, got none'):
        attention_rollout([])
    with pytest.raises(UserError, match=r'got \(1, 4, 4\) in block 1 after \(1, 16, 16\)'):
        attention_rollout([torch.ones(1, 2, 16, 16), torch.ones(1, 2, 4, 4)])
