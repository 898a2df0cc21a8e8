"""In which precision Φp is computed, whatever the user allows for the rest of the network."""
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pervit_mm.ops.position_per_query import query_position, query_position_backward
from pervit_mm.ops.precision import without_tf32

MATMUL = torch.backends.cuda.matmul


def allow_by_level():
    torch.set_float32_matmul_precision('high')


def allow_by_flag():
    MATMUL.allow_tf32 = True


def allow_by_newer_option():
    if not hasattr(MATMUL, 'fp32_precision'):
        pytest.skip('this torch has no fp32_precision')
    MATMUL.fp32_precision = 'tf32'


def allowed():
    """Whether float32 products may run in TF32. torch answers only in the terms in which it was asked."""
    return MATMUL.fp32_precision == 'tf32' if hasattr(MATMUL, 'fp32_precision') else MATMUL.allow_tf32


@pytest.fixture(params=[allow_by_level, allow_by_flag, allow_by_newer_option])
def tf32(request):
    """TF32 allowed in one of torch's three ways, and forbidden afterwards."""
    if request.param is not allow_by_newer_option:
        request.addfinalizer(lambda: torch.set_float32_matmul_precision('highest'))
    elif hasattr(MATMUL, 'fp32_precision'):
        before = MATMUL.fp32_precision
        request.addfinalizer(lambda: setattr(MATMUL, 'fp32_precision', before))
    request.param()


class Products(TorchDispatchMode):
    """Records whether TF32 was allowed, at each product of matrices."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ('mm', 'bmm', 'baddbmm', 'baddbmm_', 'addmm', 'convolution'):
            self.seen.append(allowed())
        return func(*args, **kwargs or {})


def test_products_of_the_position_network_are_never_in_tf32(tf32):
    """Forward and backward; with unequal shares of the keys, which are a product too."""
    blocks, d, heads, h, w = 1, 4, 2, 3, 4
    hidden, weight, bias = (torch.rand(blocks, *s) for s in ((d, 2 * h + 1, 2 * w + 1), (heads, d, 3, 3), (heads, )))
    factor, summand, gamma, beta = (torch.rand(blocks, *s) for s in ((d, h, w), (d, h, w), (heads, ), (heads, )))
    rows, cols = (torch.rand(n, n) for n in (h, w))
    with Products() as forward:  # the inside of an operator, which the mode would otherwise see as one call
        outs = query_position._init_fn(hidden, factor, summand, weight, bias, gamma, beta, rows, cols, (h, w), 1e-5, 5,
                                       True)
    with Products() as backward:
        query_position_backward._init_fn(*outs, hidden, factor, summand, weight, gamma, beta, rows, cols, (h, w), 5)
    assert len(forward.seen) >= 2 and len(backward.seen) >= 3
    assert not any(forward.seen + backward.seen)
    assert allowed(), 'the user still has what the user allowed'


def test_what_the_user_allowed_comes_back_after_an_error(tf32):
    with pytest.raises(ZeroDivisionError), without_tf32():
        assert not allowed()
        raise ZeroDivisionError
    assert allowed()
