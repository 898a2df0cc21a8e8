"""What only a CUDA device shows: its kernels under AMP, waiting for the device, and captured graphs."""
import copy

import pytest
import torch
from conftest import TINY_ARCH, naming, randomize
from torch.nn.attention import SDPBackend, sdpa_kernel

from pervit_mm import ops
from pervit_mm.models import PerViT
from pervit_mm.ops import attention

pytestmark = pytest.mark.cuda
#: Loss scale, without which small gradients would be zero in fp16.
SCALE = 1024.


def build(**kwargs):
    return randomize(PerViT(TINY_ARCH, img_size=28, **kwargs))


def amp_step(model, images, run=None):
    """Output and gradients of one step under fp16 autocast, as the recipe trains."""
    with torch.autocast('cuda', dtype=torch.float16):
        out = (run or model)(images)[0]
    (SCALE * out.float().square().mean()).backward()
    return out.float(), [p.grad / SCALE for p in model.parameters()]


def assert_near(model, got, expected):
    """Compare the gradients of each parameter, within what half precision explains."""
    largest = max(grad.norm().item() for grad in expected)
    for (name, _), ours, exact in zip(model.named_parameters(), got, expected):
        difference = (ours.cpu() - exact.cpu()).norm().item()
        assert difference <= 0.1 * exact.norm().item() + 5e-3 * largest, name


@pytest.mark.parametrize('options, image', [
    (dict(), (28, 28)),
    (dict(window_size=4, global_attn_indexes=(1, )), (36, 28)),
    (dict(with_cp=True), (36, 28)),
    (dict(with_cp=True, window_size=4), (36, 28)),
    (dict(), (160, 144)),
    (dict(distance_scale='fixed'), (112, 96)),
    (dict(position_cfg=None), (28, 28)),
], ids=str)
def test_an_amp_step_gives_the_gradients_of_the_cpu(options, image):
    """On 40 x 36 tokens the position network works on slices of queries."""
    model, images = build(**options).train(), torch.randn(2, 3, *image)
    expected = copy.deepcopy(model)
    out = expected(images)[0]
    out.square().mean().backward()
    got, gradients = amp_step(model.cuda(), images.cuda())
    torch.testing.assert_close(got.cpu(), out, atol=0.02, rtol=0.02)
    assert_near(model, gradients, [p.grad for p in expected.parameters()])


@pytest.mark.parametrize('options', [dict(), dict(window_size=4), dict(with_cp=True)], ids=str)
def test_a_compiled_amp_step_gives_the_gradients_of_the_eager_one(options):
    torch._dynamo.reset()
    model, images = build(**options).cuda().train(), torch.randn(2, 3, 36, 28, device='cuda')
    out, expected = amp_step(copy.deepcopy(model), images)
    got, gradients = amp_step(model, images, torch.compile(model))
    torch.testing.assert_close(got, out, atol=0.02, rtol=0.02)
    assert_near(model, gradients, expected)


@pytest.mark.parametrize('options', [dict(), dict(window_size=4), dict(with_cp=True), dict(distance_scale='fixed')],
                         ids=str)
def test_a_training_step_never_waits_for_the_device(options):
    model, images = build(**options).cuda().train(), torch.randn(2, 3, 36, 28, device='cuda')
    amp_step(model, images)  # libraries wait when they start
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode('error')
    try:
        amp_step(model, images)
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize('deploy', [True, False])
def test_a_captured_model_gives_what_the_eager_one_gives(deploy):
    """A live model makes Φp within the graph, so a replay follows its weights."""
    model = build().eval().cuda()
    if deploy:
        model.switch_to_deploy()
    images, others = torch.randn(2, 2, 3, 28, 28, device='cuda')
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.no_grad():
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # torch wants a few runs on another stream before a capture
            for _ in range(3):
                model(images)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            out = model(images)[0]
        images.copy_(others)
        if not deploy:
            model.blocks[0].attn.position.norm2.bias.add_(1.)
        graph.replay()
        torch.testing.assert_close(out, model(others)[0], atol=1e-4, rtol=1e-4)


def test_log_position_and_its_gradients_are_the_same_where_tf32_is_allowed(request):
    model = build().cuda()
    request.addfinalizer(lambda: torch.set_float32_matmul_precision('highest'))
    found = {}
    for precision in ('highest', 'high'):
        torch.set_float32_matmul_precision(precision)
        model.zero_grad()
        terms = list(model.position_terms((9, 7)))
        torch.stack(terms).square().mean().backward()
        grads = [(name, p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None]
        found[precision] = [*((f'block {i}', term.detach()) for i, term in enumerate(terms)), *grads]
        assert torch.get_float32_matmul_precision() == precision
    assert len(found['high']) == 3 + 2 + 3 * 8  # terms, projection, two convolutions and two norms for each term
    largest = max(exact.abs().max().item() for _, exact in found['highest'][3:])
    for (name, exact), (_, ours) in zip(found['highest'], found['high']):
        torch.testing.assert_close(ours, exact, atol=1e-6 * largest, rtol=1e-5, msg=naming(name))


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 2e-3), (torch.float16, 2e-2)])
def test_the_fused_kernel_takes_every_head_width_with_a_trained_mask(dtype, tolerance):
    """26 and 45 are multiples neither of 4 nor of 8. torch raises an error where the kernel would refuse."""
    for width in (26, 45):
        q, k, v = torch.randn(3, 2, 3, 196, width, device='cuda', dtype=dtype, requires_grad=True)
        mask = torch.randn(3, 196, 196, device='cuda', requires_grad=True)
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
            out = ops.peripheral_attention(q, k, v, mask)
        exact = ops.plain_attention(q.double(), k.double(), v.double(), mask.double())[0]
        torch.testing.assert_close(out.double(), exact, atol=tolerance, rtol=tolerance)
        got, = torch.autograd.grad(out.float().square().mean(), mask)
        expected, = torch.autograd.grad(exact.square().mean(), mask)
        torch.testing.assert_close(got, expected, atol=0.05 * expected.abs().max().item(), rtol=0.05)


@pytest.mark.parametrize('written_out', [attention.MASK_ALONE_FAILS, True])
def test_a_mask_may_be_all_that_is_trained(written_out, monkeypatch):
    """By the kernel from torch 2.12 on, and written out."""
    monkeypatch.setattr(attention, 'MASK_ALONE_FAILS', written_out)
    q, k, v = torch.randn(3, 2, 3, 49, 8)
    mask = torch.randn(3, 49, 49, requires_grad=True)
    expected, = torch.autograd.grad(ops.peripheral_attention(q, k, v, mask).square().mean(), mask)
    on_cuda = mask.detach().cuda().requires_grad_()
    out = ops.peripheral_attention(q.cuda(), k.cuda(), v.cuda(), on_cuda)
    got, = torch.autograd.grad(out.square().mean(), on_cuda)
    torch.testing.assert_close(got.cpu(), expected, atol=1e-3 * expected.abs().max().item(), rtol=1e-3)
