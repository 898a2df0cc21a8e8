"""Φp against the by-definition oracle."""
import oracle
import pytest
import torch
from conftest import TINY_ARCH, naming, randomize

from pervit_mm import ops
from pervit_mm.models import PerViT
from pervit_mm.models.position import PositionInit

GRIDS = [(7, 7), (5, 9), (9, 4), (1, 8), (6, 1), (1, 1)]


def build(**kwargs):
    return randomize(PerViT(TINY_ARCH, img_size=28, **kwargs))


def check_gradients(model, state):
    """Compare gradients of the position network with the oracle's. That of a bias before a norm is only rounding."""
    for name, param in model.named_parameters():
        if 'position' in name:
            exact = state[name].grad
            scale = exact.abs().max().item() if exact.abs().max() > 1e-6 else 1
            torch.testing.assert_close(
                param.grad.double(), exact, atol=2e-3 * scale + 1e-5, rtol=1e-3, msg=naming(name))


@pytest.mark.parametrize('kernel_size, norm', [(3, True), (1, True), (3, False), (1, False)])
@pytest.mark.parametrize('hw', GRIDS)
def test_position_attention_and_its_gradients_equal_the_definition(hw, kernel_size, norm):
    model = build(position_cfg=dict(kernel_size=kernel_size, norm=norm))
    state = {k: v.detach().double().requires_grad_(v.is_floating_point()) for k, v in model.state_dict().items()}
    weight = torch.rand(2, hw[0] * hw[1], hw[0] * hw[1])
    loss = 0
    for i, term in enumerate(model.position_terms(hw)):
        step = 2 / 6 if hw == (1, 1) else None
        expected = oracle.position_attention(state, i, hw, step=step)
        torch.testing.assert_close(term.exp().double(), expected, atol=1e-5, rtol=1e-4)
        loss += (term.exp() * weight).sum()
        (expected * weight).sum().backward()
    loss.backward()
    check_gradients(model, state)


@pytest.mark.parametrize('hw', [(9, 9), (12, 8), (5, 10)])
def test_fixed_scale_and_its_gradients_equal_the_definition(hw):
    model = build(distance_scale='fixed')
    state = {k: v.detach().double().requires_grad_(v.is_floating_point()) for k, v in model.state_dict().items()}
    weight = torch.rand(2, hw[0] * hw[1], hw[0] * hw[1])
    loss = 0
    for i, term in enumerate(model.position_terms(hw)):
        expected = oracle.position_attention(state, i, hw, fixed=(7, 7))
        torch.testing.assert_close(term.exp().double(), expected, atol=1e-5, rtol=1e-4)
        loss += (term.exp() * weight).sum()
        (expected * weight).sum().backward()
    loss.backward()
    check_gradients(model, state)


def test_fixed_scale_keeps_what_was_trained():
    """On a larger grid, Φp within the pretraining window around a query is the trained map."""
    model = build(distance_scale='fixed')
    small = [t.exp().reshape(2, 7, 7, 7, 7) for t in model.position_terms((7, 7))]
    large = [t.exp().reshape(2, 14, 14, 14, 14) for t in model.position_terms((14, 14))]
    for a, b in zip(small, large):
        torch.testing.assert_close(b[:, 6, 7, 3:10, 4:11], a[:, 3, 3], atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(b[:, 1, 13, :7, 7:], a[:, 1, 6], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(
        build(distance_scale='grid').position_terms((7, 7))[0], model.position_terms((7, 7))[0], atol=1e-6, rtol=1e-5)


def test_reach_at_initialization_grows_with_the_grid_only_by_grid_scale():
    """Keys with Φp > 0.5 for a central query, in the first block of tiny.

    On 14 x 14 tokens there are 21. On 28 x 28 there are 21 by 'fixed' and 69 by 'grid'.
    """
    reach = {}
    for scale in ('grid', 'fixed'):
        model = PerViT('tiny', distance_scale=scale)
        model.init_weights()
        with torch.no_grad():
            for n in (14, 28):
                term = model.blocks[0].attn.position((n, n), model.position_proj)
                query = n // 2 * n + n // 2
                reach[scale, n] = int((term[0, query].exp() > 0.5).sum())
    assert reach == {('grid', 14): 21, ('fixed', 14): 21, ('grid', 28): 69, ('fixed', 28): 21}


@pytest.mark.parametrize('hw, distance_scale', [((7, 7), 'grid'), ((6, 9), 'fixed')])
def test_slices_of_queries_change_nothing(hw, distance_scale):
    model = build()
    position = model.blocks[1].attn.position
    proj = model.position_proj
    weights = ops.PositionWeights(proj.weight, proj.bias, *(w[None] for w in position.position_weights()))
    stat_hw = (4, 4) if distance_scale == 'fixed' else None
    results = []
    for slice_bytes in (2**30, 1):
        model.zero_grad()
        term, = ops.log_positions(weights, hw, 0.2, stat_hw, slice_bytes=slice_bytes)
        term.square().mean().backward(retain_graph=True)
        results.append([term.detach(), *(p.grad.clone() for p in position.parameters())])
    for whole, sliced in zip(*results):
        torch.testing.assert_close(sliced, whole, atol=1e-5, rtol=1e-4)


def test_keys_at_equal_distance_have_equal_position_attention():
    """Both axes have the same step, so two keys at equal distance from a query have the same Φp."""
    model = build(position_cfg=dict(type='PerViTEuclideanPosition'))
    phi = model.position_terms((5, 11))[0].reshape(2, 5, 11, 5, 11)
    torch.testing.assert_close(phi[:, 2, 5, 2, 7], phi[:, 2, 5, 4, 5])


def test_unknown_options_are_errors():
    with pytest.raises(ValueError, match='kernel_size .* must be 1 or 3, got 5'):
        build(position_cfg=dict(kernel_size=5))
    with pytest.raises(ValueError, match="distance_scale must be .* got 'auto'"):
        build(distance_scale='auto')
    with pytest.raises(TypeError, match='kernel'):
        build(position_cfg=dict(kernel=3))


def test_position_without_norm_starts_alive():
    """Without norm, constant weights would leave every ReLU dead."""
    model = PerViT(TINY_ARCH, img_size=28, position_cfg=dict(norm=False))
    model.blocks[0].attn.position.init_position(PositionInit(-5., 3.))
    term = model.blocks[0].attn.position((7, 7), model.position_proj)
    torch.testing.assert_close(term.exp(), torch.full_like(term, 1 / (1 + torch.e**5)), atol=1e-3, rtol=0.05)
    term.sum().backward()
    assert model.position_proj.weight.grad.abs().max() > 0


def test_blocks_together_are_the_blocks_alone():
    """The backbone computes all blocks together. Each module alone gives the same, also for blocks with windows."""
    model = build(window_size=4, global_attn_indexes=(1, ))
    for hw, term, block in zip(model.position_grids((6, 5)), model.position_terms((6, 5)), model.blocks):
        alone = block.attn.position(hw, model.position_proj)
        assert term.shape == (2, hw[0] * hw[1], hw[0] * hw[1])
        torch.testing.assert_close(term, alone, atol=1e-6, rtol=1e-6)


def test_a_frozen_block_needs_no_backward_beside_others():
    model = build(frozen_stages=1)
    assert [term.requires_grad for term in model.position_terms((7, 7))] == [False, False, True]


def test_single_queries_per_slice_change_nothing():
    """If a row of a wide grid does not fit into a slice, it is cut between queries."""
    model = build()
    proj, position = model.position_proj, model.blocks[0].attn.position
    weights = ops.PositionWeights(proj.weight, proj.bias, *(w[None] for w in position.position_weights()))
    query_bytes = 8 * 7 * 11 * 4
    whole, parts = (ops.log_positions(weights, (5, 9), 0.2, slice_bytes=size)[0]
                    for size in (2**30, 4 * query_bytes))
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-6)
    grads = [torch.autograd.grad(term.square().mean(), proj.weight)[0] for term in (whole, parts)]
    torch.testing.assert_close(*grads, atol=1e-6, rtol=1e-4)
