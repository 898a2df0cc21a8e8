"""The operator from offset maps to log Φp."""
import pytest
import torch
import torch.nn.functional as F

from pervit_mm.ops.position_per_query import query_position


def test_query_operator_keeps_torchs_rules():
    """torch's own checker tests schema, shapes without computing, autograd and tracing."""
    blocks, d, heads, h, w = 2, 4, 2, 3, 4
    hidden = torch.randn(blocks, d, 2 * h + 1, 2 * w + 1, requires_grad=True)
    factor, summand = (torch.rand(blocks, d, h, w, requires_grad=True) for _ in range(2))
    weight = torch.randn(blocks, heads, d, 3, 3, requires_grad=True)
    bias, gamma, beta = (torch.randn(blocks, heads, requires_grad=True) for _ in range(3))
    for norms in ((factor, summand, weight, bias, gamma, beta), (None, None, weight, bias, None, None)):
        args = (hidden, *norms, None, None, (h, w), 1e-5, 5, True)
        torch.library.opcheck(query_position, args)


@pytest.mark.parametrize('alike', [True, False])
def test_gradients_of_the_query_operator_equal_finite_differences(alike):
    """In float64, with equal and with unequal shares of the keys in the last norm."""
    blocks, d, heads, h, w = 2, 3, 2, 2, 3

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    share = [torch.rand(n, n, dtype=torch.float64) for n in (h, w)]
    shares = (None, None) if alike else tuple(s / s.sum(1, keepdim=True) for s in share)
    tensors = (draw(blocks, d, 2 * h + 1, 2 * w + 1), draw(blocks, d, h, w), draw(blocks, d, h, w),
               draw(blocks, heads, d, 3, 3), draw(blocks, heads), draw(blocks, heads), draw(blocks, heads))
    assert torch.autograd.gradcheck(lambda *t: query_position(*t, *shares, (h, w), 1e-5, 2, True)[0], tensors)


def test_log_sigmoid_is_torchs():
    """With weights of zero and without norms, log Φp is the log-sigmoid of the bias of each head."""
    x = torch.cat([torch.linspace(-120, 120, 1001), torch.tensor([0., -1e-7, 1e-7])])
    hidden, weight = torch.zeros(1, 1, 1, 1), torch.zeros(1, len(x), 1, 1, 1)
    args = (hidden, None, None, weight, x[None], None, None, None, None, (1, 1), 1e-5, 1, False)
    torch.testing.assert_close(query_position(*args)[0].flatten(), F.logsigmoid(x), atol=2e-7, rtol=1e-6)
