"""The operator from offset maps to log Φp."""
import pytest
import torch
import torch.nn.functional as F

from pervit_mm.ops.position import band_average, window_starts
from pervit_mm.ops.position_per_query import query_position
from pervit_mm.ops.position_plain import plain_query_position


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


@pytest.mark.parametrize('few', [True, False], ids=['few launches', 'loop'])
@pytest.mark.parametrize('kernel', [1, 3])
@pytest.mark.parametrize('norm', [True, False])
@pytest.mark.parametrize('hw, window, queries_each', [((3, 5), None, 15), ((6, 4), (3, 2), 9), ((1, 4), None, 1)])
def test_every_path_equals_the_plain_form(monkeypatch, few, kernel, norm, hw, window, queries_each):
    """The path for GPUs and that for the CPU: values and all gradients, in float64, in one slice and in several."""
    monkeypatch.setattr('pervit_mm.ops.distance.few_launches', lambda device: few)
    blocks, d, heads, margin = 2, 4, 3, kernel // 2

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    tensors = [draw(blocks, d, *(2 * side - 1 + 2 * margin for side in hw)),
               *(draw(blocks, d, *hw) if norm else None for _ in range(2)),
               draw(blocks, heads, d, kernel, kernel), draw(blocks, heads),
               *(draw(blocks, heads) if norm else None for _ in range(2))]
    shares = (None, None) if window is None or not norm else tuple(
        band_average(window_starts(side, keys), keys, side) for side, keys in zip(hw, window))
    expected = plain_query_position(*tensors, *shares, hw, 1e-5)
    found = query_position(*tensors, *shares, hw, 1e-5, queries_each, True)[0]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
    needed = [t for t in tensors if t is not None]
    grad = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad(out, needed, grad) for out in (found, expected))):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


def test_log_sigmoid_is_torchs():
    """With weights of zero and without norms, log Φp is the log-sigmoid of the bias of each head."""
    x = torch.cat([torch.linspace(-120, 120, 1001), torch.tensor([0., -1e-7, 1e-7])])
    hidden, weight = torch.zeros(1, 1, 1, 1), torch.zeros(1, len(x), 1, 1, 1)
    args = (hidden, None, None, weight, x[None], None, None, None, None, (1, 1), 1e-5, 1, False)
    torch.testing.assert_close(query_position(*args)[0].flatten(), F.logsigmoid(x), atol=2e-7, rtol=1e-6)
