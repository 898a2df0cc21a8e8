"""Every variant of the network on a CUDA device that isn't there: no tensor may be left on the CPU."""
import oracle
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_ARCH
from fake_cuda import CUDA, backward, fake, fake_cuda, move

from pervit_mm import ops
from pervit_mm.models import PerViT, PerViTFeaturePyramid
from pervit_mm.ops import attention
from pervit_mm.ops.position_per_query import query_position, query_position_backward
from pervit_mm.ops.position_plain import plain_query_position


def run(train=True, deploy=False, neck=False, image=(36, 28), **options):
    """One pass under autocast, with backward if ``train``. Returns the network, its neck, and the attention's types."""
    model = PerViT(TINY_ARCH, **{'img_size': 28, **options}).train(train)
    if deploy:
        model.switch_to_deploy([tuple(side // model.out_stride for side in image)])
    network = torch.nn.Sequential(model)
    if neck:
        network.append(PerViTFeaturePyramid(in_channels=24, out_channels=16))
    types = []
    for block in model.blocks:
        block.attn.proj.register_forward_hook(lambda module, args, out: types.append(out.dtype))
    with fake_cuda() as mode, torch.set_grad_enabled(train):
        move(network, mode)
        with torch.autocast('cuda', dtype=torch.float16):
            outs = network(torch.randn(2, 3, *image, device=CUDA))
        assert all(out.device == CUDA for out in outs)
        if train:
            backward(sum(out.float().square().mean() for out in outs))
    return network, types


@pytest.mark.parametrize('options', [
    dict(),
    dict(window_size=4, global_attn_indexes=(1, )),
    dict(with_cp=True),
    dict(with_cp=True, window_size=4),
    dict(position_cfg=None),
    dict(content=False),
    dict(position_cfg=dict(type='PerViTEuclideanPosition')),
    dict(position_cfg=dict(type='PerViTRelativePositionBias')),
    dict(img_size=224, image=(384, 384)),
    dict(img_size=224, image=(384, 384), distance_scale='fixed'),
    dict(out_indices=(0, 2), out_type='raw', stem_cfg=dict(type='patchify')),
    dict(out_type='featmap', neck=True),
], ids=str)
def test_training_under_autocast_stays_on_the_device(options):
    network, types = run(**options)
    assert set(types) == {torch.float16}
    missing = [name for name, param in network.named_parameters() if param.grad is None]
    assert not missing
    assert all(param.grad.device == CUDA and param.grad.dtype == torch.float32 for param in network.parameters())


@pytest.mark.parametrize('options', [
    dict(), dict(deploy=True), dict(deploy=True, window_size=4), dict(position_cache_bytes=0),
    dict(deploy=True, position_cfg=None)
], ids=str)
def test_inference_under_autocast_stays_on_the_device(options):
    assert set(run(train=False, **options)[1]) == {torch.float16}


def test_a_tensor_left_on_the_cpu_is_found(monkeypatch):
    """The tests above can fail: in forward by a constant, in backward by a gradient."""
    monkeypatch.setattr('pervit_mm.ops.position.offset_distances',
                        lambda hw_shape, step, margin, device: ops.offset_distances(hw_shape, step, margin))
    with pytest.raises(RuntimeError, match='device'):
        run()
    monkeypatch.undo()
    monkeypatch.setattr('pervit_mm.ops.position_per_query.query_position_backward',
                        lambda *args: [g.to('cpu') for g in query_position_backward(*args)])
    with pytest.raises(AssertionError, match='cpu'):
        run()


@pytest.mark.parametrize('norms', [True, False])
@pytest.mark.parametrize('alike', [True, False])
def test_operators_stay_on_the_device(norms, alike):
    """The inside of the two operators, which fake tensors don't reach through the model, and the plain form."""
    blocks, d, heads, h, w = 2, 4, 2, 3, 4
    with fake_cuda():
        hidden, weight, bias = (torch.rand(blocks, *shape, device=CUDA)
                                for shape in ((d, 2 * h + 1, 2 * w + 1), (heads, d, 3, 3), (heads, )))
        more = [torch.rand(blocks, *shape, device=CUDA) for shape in ((d, h, w), (d, h, w), (heads, ), (heads, ))]
        factor, summand, gamma, beta = more if norms else [None] * 4
        rows, cols = (None, None) if alike else (torch.rand(n, n, device=CUDA) for n in (h, w))
        inputs = (hidden, factor, summand, weight, bias, gamma, beta, rows, cols)
        outs = query_position._init_fn(*inputs, (h, w), 1e-5, 5, True)
        grads = query_position_backward._init_fn(
            outs[0], *outs[1:], hidden, factor, summand, weight, gamma, beta, rows, cols, (h, w), 5)
        plain = plain_query_position(*inputs, (h, w), 1e-5)
        assert all(out.device == CUDA for out in (*outs, *grads, plain))
        assert plain.dtype == torch.float32 and plain.shape == outs[0].shape


@pytest.mark.parametrize('masked', [True, False])
@pytest.mark.parametrize('dtype, width, padded', [
    (torch.float32, 26, 28), (torch.float32, 28, 28), (torch.float16, 26, 32), (torch.bfloat16, 40, 40)])
def test_head_width_is_padded_to_what_the_kernel_takes(monkeypatch, masked, dtype, width, padded):
    seen = []
    plain = F.scaled_dot_product_attention
    monkeypatch.setattr(attention.F, 'scaled_dot_product_attention',
                        lambda q, *args, **kwargs: seen.append(q.shape[-1]) or plain(q, *args, **kwargs))
    with fake_cuda():
        q, k, v = torch.randn(3, 2, 3, 10, width, dtype=dtype, device=CUDA)
        mask = torch.randn(3, 10, 10, device=CUDA) if masked else None
        assert ops.peripheral_attention(q, k, v, mask).shape == q.shape
    assert seen == [padded]


@pytest.mark.parametrize('broken, who, ours', [
    (True, 'mask', True), (False, 'mask', False), (True, 'both', False), (True, None, False)])
def test_attention_is_written_out_where_the_kernel_would_read_foreign_memory(monkeypatch, broken, who, ours):
    """Before torch 2.12, where the mask alone needs a gradient."""
    monkeypatch.setattr(attention, 'MASK_ALONE_FAILS', broken)
    calls = []
    written_out = attention.plain_attention
    monkeypatch.setattr(attention, 'plain_attention', lambda *args: calls.append(1) or written_out(*args))
    with fake_cuda():
        q, k, v = torch.randn(3, 2, 3, 10, 8, device=CUDA, requires_grad=who == 'both')
        mask = torch.randn(3, 10, 10, device=CUDA, requires_grad=who is not None)
        ops.peripheral_attention(q, k, v, mask)
        with torch.no_grad():
            ops.peripheral_attention(q, k, v, mask)
    assert calls == [1] * ours


@pytest.mark.parametrize('windows', [dict(), dict(window=(4, 4), global_blocks=(1, ))])
def test_the_oracle_stays_on_the_device(windows):
    """``tools/benchmark.py`` measures it there."""
    state = PerViT(TINY_ARCH, img_size=28).state_dict()
    with fake_cuda() as mode:
        state = {key: fake(value, mode) for key, value in state.items()}
        out, = oracle.backbone(state, torch.randn(2, 3, 36, 28, device=CUDA), 2, torch.float32, pretrain_hw=(7, 7),
                               **windows)
        assert out.device == CUDA and out.shape == (2, 63, 24)
