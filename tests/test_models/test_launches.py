"""How many kernels a step starts, and that the CPU never waits for one. Counted on the meta device."""
import pytest
import torch
from kernel_count import KernelCount

from pervit_mm.models import PerViT


def meta(size, **kwargs):
    with torch.device('meta'):
        return PerViT(size, **kwargs)


@pytest.mark.parametrize('size', ['tiny', 'small', 'medium'])
def test_position_network_of_all_blocks_takes_few_kernels(size):
    """Forward and backward for all 12 blocks at 14 x 14 tokens.

    What counts is the work per query: everything from the windows of the offset maps to log Φp, and back. The preamble
    is apart: the one map over offsets, the sliding averages of the first norm, and the weights of all blocks put
    together. Its number of kernels does not depend on the grid.
    """
    outside = set()
    for side in (14, 8):
        model = meta(size)
        with KernelCount() as count:
            terms = list(model.position_terms((side, side)))
            torch.autograd.backward(terms, [torch.empty_like(term) for term in terms])
        outside.add(count.outside.total())
        assert 0 < count.inside.total() <= 80
    assert len(outside) == 1 and outside.pop() <= 150


@pytest.mark.parametrize('kwargs', [dict(), dict(window_size='pretrain', global_attn_indexes=(2, 5), with_cp=True),
                                    dict(drop_path_rate=0.2, distance_scale='fixed')])
def test_no_operation_of_a_step_waits_for_the_device(kwargs):
    model = meta('tiny', out_type='featmap', **kwargs).train()
    with KernelCount() as count:
        out, = model(torch.empty(2, 3, 320, 224, device='meta'))
        out.backward(torch.empty_like(out))
    assert count.inside.total() > 0 and count.outside['convolution_backward'] > 0  # it has counted
    assert count.waiting == []


@pytest.mark.parametrize('wait', [lambda x: torch.equal(x, x), torch.nonzero, lambda x: x.sum().item(),
                                  lambda x: x.to('cpu'), lambda x: x.copy_(torch.ones(3)),
                                  lambda x: torch.ones(3).to(x.device)])
def test_waiting_is_noticed(wait):
    with KernelCount() as count:
        try:
            wait(torch.empty(3, device='meta'))
        except (NotImplementedError, RuntimeError):
            pass  # there are no values to wait for
    assert len(count.waiting) == 1
