"""Operations against their definitions."""
import oracle
import pytest
import torch
import torch.nn.functional as F

from pervit_mm import ops
from pervit_mm.ops.attention import trainable_mask_attention
from pervit_mm.ops.query_position import _log_sigmoid, query_position

GRIDS = [(5, 5), (3, 7), (6, 2), (1, 6), (4, 1), (1, 1)]


@pytest.mark.parametrize('hw', GRIDS)
def test_offset_map_holds_every_distance(hw):
    expected = oracle.distances(hw, 0.3).flatten(1).float()
    torch.testing.assert_close(ops.pairwise_distances(hw, 0.3), expected)


@pytest.mark.parametrize('hw', GRIDS)
def test_expand_offsets_with_margin(hw):
    offsets = ops.offset_distances(hw, 0.5, margin=2)
    windows = ops.expand_offsets(offsets[None], hw, margin=2).flip(1, 2).reshape(hw[0] * hw[1], hw[0] + 4, hw[1] + 4)
    torch.testing.assert_close(windows, oracle.distances(hw, 0.5, 2).float())


def test_grid_step():
    assert ops.grid_step((14, 14)) == 2 / 13
    assert ops.grid_step((7, 21)) == ops.grid_step((21, 7)) == 0.1
    assert ops.grid_step((1, 1), pretrain_hw=(14, 14)) == 2 / 13  # no spacing of its own
    assert ops.grid_step((1, 1)) == 2


def test_fast_and_plain_attention_agree_with_the_definition():
    q, k, v = torch.randn(3, 2, 3, 10, 5)
    phi = torch.rand(3, 10, 10)
    expected = oracle.attention(*(t.double() for t in (q, k, v, phi))).float()
    fast = ops.peripheral_attention(q, k, v, phi.log())
    plain, maps = ops.plain_attention(q, k, v, phi.log())
    torch.testing.assert_close(fast, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(plain, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(maps['attention'] @ v, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(maps['position'], phi)
    product = maps['content'] * phi
    torch.testing.assert_close(product / product.sum(-1, keepdim=True), maps['attention'])


def test_attention_without_position_is_torchs():
    q, k, v = torch.randn(3, 2, 3, 10, 8)
    torch.testing.assert_close(
        ops.peripheral_attention(q, k, v, None), F.scaled_dot_product_attention(q, k, v))
    torch.testing.assert_close(ops.plain_attention(q, k, v, None)[0], F.scaled_dot_product_attention(q, k, v))


def test_position_attention_normalizes_rows():
    v, phi = torch.randn(2, 3, 6, 4), torch.rand(3, 6, 6)
    expected = phi / phi.sum(-1, keepdim=True) @ v
    torch.testing.assert_close(ops.position_attention(v, phi.log()), expected)
    torch.testing.assert_close(ops.plain_attention(None, None, v, phi.log())[0], expected)


def test_padded_head_width_changes_nothing():
    q, k, v = torch.randn(3, 2, 2, 6, 5)
    padded = ops.pad_head_width(q, k, v)
    assert all(t.shape[-1] == 8 for t in padded)
    out = F.scaled_dot_product_attention(*padded, scale=5**-0.5)[..., :5]
    torch.testing.assert_close(out, ops.peripheral_attention(q, k, v, None))
    assert ops.pad_head_width(q, k, v, 5)[0] is q


@pytest.mark.parametrize('hw, window', [((6, 6), (3, 3)), ((7, 5), (3, 2)), ((2, 9), (4, 4)), ((1, 5), (1, 2))])
def test_windows_equal_masked_attention_on_the_whole_map(hw, window):
    heads, d = 2, 3
    x = torch.randn(2, hw[0] * hw[1], heads * d)
    phi = torch.rand(heads, window[0] * window[1], window[0] * window[1])

    def split(t):
        return t.unflatten(-1, (heads, d)).transpose(1, 2)

    def attend(tokens, log_position):
        q = split(tokens)
        return ops.peripheral_attention(q, q, q, log_position).transpose(1, 2).flatten(2)

    out = ops.attend_in_windows(x, hw, window, phi.log(), attend)
    rows, cols = torch.arange(hw[0]) % window[0], torch.arange(hw[1]) % window[1]
    place = (rows[:, None] * window[1] + cols).flatten()
    mask = phi[:, place][:, :, place] * oracle.windowed_mask(hw, window)
    q = split(x.double())
    expected = oracle.attention(q, q, q, mask.double()).transpose(1, 2).flatten(2).float()
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)


def test_window_partition_round_trip():
    x = torch.randn(2, 6, 8, 3)
    torch.testing.assert_close(ops.unpartition(ops.partition(x, (3, 2)), (3, 2), (6, 8)), x, atol=0, rtol=0)
    assert ops.split_axis(7, 3) == [(0, 6, 3), (6, 7, 1)]
    assert ops.split_axis(6, 3) == [(0, 6, 3)] and ops.split_axis(2, 3) == [(0, 2, 2)]


@pytest.mark.parametrize('trainable', [True, False])
def test_attention_gradients_by_definition(trainable):
    q, k, v = (torch.randn(3, 2, 7, 5, requires_grad=True) for _ in range(3))
    logits = torch.randn(2, 7, 7, requires_grad=trainable)
    doubles = [t.detach().double().requires_grad_(t.requires_grad) for t in (q, k, v, logits)]
    weight = torch.randn(3, 2, 7, 5)
    (ops.peripheral_attention(q, k, v, F.logsigmoid(logits)) * weight).sum().backward()
    (oracle.attention(*doubles[:3], doubles[3].sigmoid()) * weight).sum().backward()
    for ours, exact in zip((q, k, v, logits), doubles):
        assert (ours.grad is None) == (exact.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad.double(), exact.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('position', ['trainable', 'frozen', None])
def test_attention_in_training_takes_strided_heads_and_half_precision(position, monkeypatch):
    """As the model calls it: q, k, v are slices of one projection, and under autocast they are bfloat16."""
    qkv = torch.randn(2, 9, 3, 2, 4, requires_grad=True)
    logits = None if position is None else torch.randn(2, 9, 9, requires_grad=position == 'trainable')
    leaves = [qkv] if position != 'trainable' else [qkv, logits]
    grads, ours = {}, []
    monkeypatch.setattr('pervit_mm.ops.attention.trainable_mask_attention',
                        lambda q, *args: ours.append(q.dtype) or trainable_mask_attention(q, *args))
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = qkv.to(dtype).permute(2, 0, 3, 1, 4).unbind(0)
        loss = ops.peripheral_attention(q, k, v, logits).float().square().sum()
        grads[dtype] = torch.autograd.grad(loss, leaves)
    assert ours == ([torch.float32, torch.bfloat16] if position == 'trainable' else [torch.bfloat16])
    for half, single in zip(grads[torch.bfloat16], grads[torch.float32]):
        torch.testing.assert_close(half, single, atol=0.05 * single.abs().max().item(), rtol=0.1)


def test_custom_operators_keep_torchs_rules():
    """Schema, shapes without computing, autograd and tracing, by torch's own checker."""
    qkv = [torch.randn(3, 2, 7, 5, requires_grad=True) for _ in range(3)]
    torch.library.opcheck(trainable_mask_attention, (*qkv, torch.randn(2, 7, 7, requires_grad=True)))
    layers, d, heads, h, w = 2, 4, 2, 3, 4
    hidden = torch.randn(layers, d, 2 * h + 1, 2 * w + 1, requires_grad=True)
    factor, summand = (torch.rand(layers, d, h, w, requires_grad=True) for _ in range(2))
    weight = torch.randn(layers, heads, d, 3, 3, requires_grad=True)
    bias, gamma, beta = (torch.randn(layers, heads, requires_grad=True) for _ in range(3))
    for norms in ((factor, summand, weight, bias, gamma, beta), (None, None, weight, bias, None, None)):
        args = (hidden, *norms, None, None, (h, w), 1e-5, 5, True)
        torch.library.opcheck(query_position, args)


@pytest.mark.parametrize('alike', [True, False])
def test_gradients_of_the_query_operator_by_differences(alike):
    """In float64 against finite differences, with keys that count alike in the last norm and with others."""
    layers, d, heads, h, w = 2, 3, 2, 2, 3

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    share = [torch.rand(n, n, dtype=torch.float64) for n in (h, w)]
    shares = (None, None) if alike else tuple(s / s.sum(1, keepdim=True) for s in share)
    tensors = (draw(layers, d, 2 * h + 1, 2 * w + 1), draw(layers, d, h, w), draw(layers, d, h, w),
               draw(layers, heads, d, 3, 3), draw(layers, heads), draw(layers, heads), draw(layers, heads))
    assert torch.autograd.gradcheck(lambda *t: query_position(*t, *shares, (h, w), 1e-5, 2, True)[0], tensors)


def test_log_sigmoid_is_torchs():
    x = torch.cat([torch.linspace(-120, 120, 1001), torch.tensor([0., -1e-7, 1e-7])])
    torch.testing.assert_close(_log_sigmoid(x), F.logsigmoid(x), atol=2e-7, rtol=1e-6)
