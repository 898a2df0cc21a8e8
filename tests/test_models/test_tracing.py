"""torch.jit.trace and the FLOP counters that are built on it take every form of the network."""
import copy

import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.analysis import FlopAnalyzer, get_model_complexity_info

from pervit_mm.apis.flops import count_flops
from pervit_mm.models import PerViT

pytestmark = pytest.mark.usefixtures('one_thread')
FORMS = {
    'plain': dict(),
    'no position': dict(position_cfg=None),
    'windows': dict(window_size=3),
    'fixed distances': dict(distance_scale='fixed'),
    'maps': dict(out_type='featmap', out_indices=(0, 1)),
}


def form(name, deployed):
    model = randomize(PerViT(TINY_ARCH, img_size=16, **FORMS[name])).eval()
    if deployed:
        model.switch_to_deploy([(4, 4)])
    return model


@pytest.mark.parametrize('gradients', [False, True])
@pytest.mark.parametrize('deployed', [False, True])
@pytest.mark.parametrize('name', FORMS)
def test_a_trace_is_the_network(name, deployed, gradients):
    """torch itself checks the trace a second time, without gradients, and refuses another graph."""
    model, first, second = form(name, deployed), torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(model, first)
        for found, expected in zip(traced(second), model(second)):
            torch.testing.assert_close(found, expected)


def test_gradients_of_a_trace_are_those_of_the_network():
    """Of the position network too."""
    model, images = form('plain', deployed=False), torch.rand(1, 3, 16, 16)
    traced = torch.jit.trace(copy.deepcopy(model), images)
    for each in (model, traced):
        each(images)[0].square().sum().backward()
    compared = 0
    for (name, expected), (_, found) in zip(model.named_parameters(), traced.named_parameters()):
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-6, msg=name)
            compared += 'position' in name and bool(expected.grad.abs().sum() > 0)
    assert compared > 5


@pytest.mark.parametrize('name', FORMS)
def test_mmengine_counts_the_same_with_and_without_gradients(name):
    """With its table, which names every module."""
    counts = set()
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            found = get_model_complexity_info(form(name, deployed=False), inputs=(torch.rand(1, 3, 16, 16), ))
        counts.add(found['flops'])
    assert len(counts) == 1 and counts.pop() > 0


def test_counters_agree_on_all_three_forms():
    """fvcore's with MMEngine's, and both with our count. Neither counts the attention products; ours is deployed."""
    fvcore = pytest.importorskip('fvcore.nn', reason='fvcore is optional: pip install fvcore')
    images = torch.rand(1, 3, 16, 16)
    products = sum(2 * 16 * 16 * width for width in (16, 16, 24))  # 16 tokens: q·kᵀ and weights·v of each block
    found = {}
    for name in ('plain', 'no position'):
        for deployed in (False, True):
            model = form(name, deployed)
            totals = {int(counter(model, images).total()) for counter in (fvcore.FlopCountAnalysis, FlopAnalyzer)}
            assert len(totals) == 1
            found[name, deployed] = totals.pop()
        assert count_flops(form(name, False), (3, 16, 16)).flops == found[name, True] + products
    assert found['plain', True] == found['no position', True]
    norms = 2 * (64 * 8 + 16 * 16)  # deployment folds the BatchNorms of 8x8 and 4x4 maps, two for each value
    assert found['no position', False] == found['no position', True] + norms
    assert found['plain', False] > found['no position', False]
