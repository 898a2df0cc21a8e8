"""Derivatives beyond the first backward, in float64 against finite differences."""
import pytest
import torch

from pervit_mm import ops
from pervit_mm.ops.attention import trainable_mask_attention
from pervit_mm.ops.position_per_query import query_position


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_second_derivatives_of_attention_equal_finite_differences():
    tensors = (*(draw(2, 1, 2, 2) for _ in range(3)), draw(1, 2, 2))
    assert torch.autograd.gradgradcheck(trainable_mask_attention, tensors)


def test_second_derivatives_of_attention_of_a_tensor_to_itself():
    """One tensor in three places; each place has its own share of the gradient."""
    x, log_position = draw(2, 1, 3, 2), torch.rand(1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, p: trainable_mask_attention(x, x, x, p), (x, log_position))


@pytest.mark.parametrize('norms', ['alike', 'unequal', None])
def test_second_derivatives_of_the_query_operator_equal_finite_differences(norms):
    """With equal and with unequal shares of the keys in the last norm, and without norms."""
    blocks, d, heads, h, w = 2, 2, 2, 2, 1
    hidden, weight, bias = draw(blocks, d, 2 * h + 1, 2 * w + 1), draw(blocks, heads, d, 3, 3), draw(blocks, heads)
    rows = cols = None
    if norms == 'unequal':
        rows, cols = (torch.rand(n, n, dtype=torch.float64).softmax(1) for n in (h, w))

    def run(hidden, weight, bias, factor=None, summand=None, gamma=None, beta=None):
        return query_position(hidden, factor, summand, weight, bias, gamma, beta, rows, cols, (h, w), 1e-5, 1, True)[0]

    more = [draw(blocks, *shape) for shape in ((d, h, w), (d, h, w), (heads, ), (heads, ))] if norms else []
    assert torch.autograd.gradgradcheck(run, (hidden, weight, bias, *more))


def test_forward_mode_of_attention_equals_finite_differences():
    """The operator itself would lose the tangents."""
    tensors = (*(draw(2, 1, 3, 2) for _ in range(3)), draw(1, 3, 3))
    assert torch.autograd.gradcheck(ops.peripheral_attention, tensors, check_forward_ad=True, check_backward_ad=False)
