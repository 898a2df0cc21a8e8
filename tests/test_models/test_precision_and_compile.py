"""Autocast, half precision and torch.compile."""
import copy

import pytest
import torch
from conftest import DEVICES, TINY_ARCH, naming, randomize
from mmengine.optim import AmpOptimWrapper

from pervit_mm.models import PerViT

pytestmark = pytest.mark.usefixtures('float32_convolutions')


def build(**kwargs):
    return randomize(PerViT(TINY_ARCH, img_size=28, **kwargs)).eval()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('position',
                         ['PerViTPeripheralPosition', 'PerViTEuclideanPosition', 'PerViTRelativePositionBias'])
def test_position_is_float32_under_autocast(device, dtype, position):
    model = build(position_cfg=dict(type=position)).to(device)
    expected = model.position_terms((5, 9))
    with torch.autocast(device, dtype=dtype):
        terms = model.position_terms((5, 9))
        out = model(torch.randn(2, 3, 28, 28, device=device))[0]
    assert out.isfinite().all()
    for term, exp in zip(terms, expected):
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, exp, atol=1e-4, rtol=0)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_autocast_output_is_near_float32_and_gradients_are_finite(device, dtype, tolerance):
    model = build().to(device)
    images = torch.randn(2, 3, 28, 28, device=device)
    expected = model(images)[0]
    with torch.autocast(device, dtype=dtype):
        out = model(images)[0]
    torch.testing.assert_close(out.float(), expected, atol=tolerance, rtol=tolerance)
    out.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_bfloat16_weights_give_nearly_the_same():
    model, images = build(), torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        expected = model(images)[0]
        out = copy.deepcopy(model).bfloat16()(images.bfloat16())[0]
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, atol=0.1, rtol=0.1)


@pytest.mark.cuda
def test_cuda_gives_what_the_cpu_gives():
    model, images = build(out_type='raw'), torch.randn(2, 3, 30, 22)
    with torch.no_grad():
        expected = model(images)[0]
        out = copy.deepcopy(model).cuda()(images.cuda())[0].cpu()
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


def compiled(model, device):
    """The compiled model. ``fullgraph`` raises an error at the first graph break."""
    torch._dynamo.reset()
    # On the CPU the graph is captured and traced through autograd. It is not lowered, because compiling the C++ takes
    # minutes.
    return torch.compile(model, fullgraph=True, backend='inductor' if device == 'cuda' else 'aot_eager')


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('kwargs', [
    dict(), dict(window_size=4, global_attn_indexes=(1, )), dict(distance_scale='fixed')
])
def test_compiles_without_graph_breaks_in_training(device, kwargs):
    model = build(**kwargs).to(device).train()
    images = torch.randn(2, 3, 36, 28, device=device)
    eager = copy.deepcopy(model)
    out, expected = compiled(model, device)(images)[0], eager(images)[0]
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-3)
    out.square().sum().backward()
    expected.square().sum().backward()
    for (name, a), b in zip(model.named_parameters(), eager.parameters()):
        scale = b.grad.abs().max().item()
        torch.testing.assert_close(a.grad, b.grad, atol=1e-3 * scale + 1e-4, rtol=1e-3, msg=naming(name))


@pytest.mark.parametrize('device', DEVICES)
def test_compiles_with_slices_under_recomputation(device, monkeypatch):
    # Two slices of the 9 x 7 grid.
    monkeypatch.setattr('pervit_mm.ops.position.default_slice_bytes', lambda device: 120_000)
    test_compiles_without_graph_breaks_in_training(device, dict())


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('deploy', [False, True])
def test_compiles_without_graph_breaks_in_inference(device, deploy):
    model = build().to(device)
    if deploy:
        model.switch_to_deploy()
    run = compiled(model, device)
    with torch.no_grad():
        for batch in (2, 3, 5):
            images = torch.randn(batch, 3, 28, 28, device=device)
            torch.testing.assert_close(run(images)[0], model(images)[0], atol=1e-4, rtol=1e-3)
    assert len(model.position_cache.kept) == (0 if deploy else 3)  # only the eager calls keep it


@pytest.mark.cuda
def test_an_amp_step_on_cuda_changes_and_keeps_weights_finite():
    """fp16 with a gradient scaler, as the recipe trains."""
    model = build().cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    wrapper = AmpOptimWrapper(optimizer=optimizer, dtype='float16', loss_scale=128.)
    before = [p.detach().clone() for p in model.parameters()]
    with wrapper.optim_context(model):
        loss = model(torch.randn(4, 3, 28, 28, device='cuda'))[0].square().mean()
    wrapper.update_params(loss)
    assert loss.isfinite() and all(p.isfinite().all() for p in model.parameters())
    assert sum(not torch.equal(a, b) for a, b in zip(before, model.parameters())) > 0.9 * len(before)
