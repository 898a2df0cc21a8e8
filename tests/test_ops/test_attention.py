"""Attention against its definition."""
import oracle
import pytest
import torch
import torch.nn.functional as F

from pervit_mm import ops
from pervit_mm.ops.attention import trainable_mask_attention


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
    torch.testing.assert_close(ops.attend_by_position(v, phi.log()), expected)
    torch.testing.assert_close(ops.plain_attention(None, None, v, phi.log())[0], expected)


def test_padded_head_width_changes_nothing():
    q, k, v = torch.randn(3, 2, 2, 6, 5)
    padded = ops.pad_head_width(q, k, v)
    assert all(t.shape[-1] == 8 for t in padded)
    out = F.scaled_dot_product_attention(*padded, scale=5**-0.5)[..., :5]
    torch.testing.assert_close(out, ops.peripheral_attention(q, k, v, None))
    assert ops.pad_head_width(q, k, v, 5)[0] is q


@pytest.mark.parametrize('trainable', [True, False])
def test_attention_gradients_equal_the_definition(trainable):
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
    """In the model q, k and v are slices of one projection. Under autocast they are bfloat16."""
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


def test_the_gradient_of_log_position_is_summed_over_many_images_in_bfloat16(monkeypatch):
    """1,000 equal images, one in each chunk: the gradient is 1,000 times that of one. In bfloat16 sums stop at 256."""
    monkeypatch.setattr('pervit_mm.ops.attention.CHUNK_BYTES', 1)
    one, position = torch.randn(3, 1, 2, 9, 4).bfloat16(), torch.randn(2, 9, 9).bfloat16()
    gradients = []
    for images in (1, 1000):
        log_position = position.clone().requires_grad_()
        trainable_mask_attention(*one.expand(-1, images, -1, -1, -1), log_position).sum().backward()
        gradients.append(log_position.grad.float())
    torch.testing.assert_close(gradients[1], 1000 * gradients[0], rtol=0.02, atol=0.5)


def test_trainable_mask_operator_keeps_torchs_rules():
    """torch's own checker tests schema, shapes without computing, autograd and tracing."""
    qkv = [torch.randn(3, 2, 7, 5, requires_grad=True) for _ in range(3)]
    torch.library.opcheck(trainable_mask_attention, (*qkv, torch.randn(2, 7, 7, requires_grad=True)))


def test_masks_of_their_own_have_values_and_gradients_of_the_definition_image_by_image():
    """With fewer queries than keys, too."""
    q, k, v = (torch.randn(3, 2, n, 5, requires_grad=True) for n in (4, 7, 7))
    logits, weight = torch.randn(3, 2, 4, 7, requires_grad=True), torch.randn(3, 2, 4, 5)
    doubles = [t.detach().double().requires_grad_() for t in (q, k, v, logits)]
    found = ops.peripheral_attention(q, k, v, F.logsigmoid(logits))
    expected = torch.cat([oracle.attention(*(t[i:i + 1] for t in doubles[:3]), doubles[3][i].sigmoid())
                          for i in range(3)])
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    with torch.no_grad():  # torch's kernel
        torch.testing.assert_close(ops.peripheral_attention(q, k, v, F.logsigmoid(logits)), found)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for ours, exact in zip((q, k, v, logits), doubles):
        torch.testing.assert_close(ours.grad.double(), exact.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ops.plain_attention(q, k, v, F.logsigmoid(logits))[0], found)


@pytest.mark.parametrize('shape', [(2, 4, 7), (3, 2, 4, 7), None])
def test_few_queries_in_bfloat16_have_the_gradients_of_float32(shape):
    """As hidden tokens that attend to all; with a frozen Φp, of the grid or of each image, or without one."""
    q, k, v = (torch.randn(3, 2, n, 5, requires_grad=True) for n in (4, 7, 7))
    logits, grads = None if shape is None else torch.randn(shape), []
    for dtype in (torch.float32, torch.bfloat16):
        out = ops.peripheral_attention(*(t.to(dtype) for t in (q, k, v)), logits)
        grads.append(torch.autograd.grad(out.float().square().sum(), (q, k, v)))
    for single, half in zip(*grads):
        torch.testing.assert_close(half, single, atol=0.05 * single.abs().max().item(), rtol=0.1)
