"""Training under bfloat16 without a GPU."""
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from conftest import TINY_ARCH
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from torch import nn

from pervit_mm.models import PerViT
from pervit_mm.models.necks import PerViTLayerNorm2d

CFG = dict(type='PerViTBFloat16OptimWrapper', optimizer=dict(type='SGD', lr=0.1))


class Model(nn.Module):
    """Records the dtype of each part's output."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.seen = {}
        for name, layer in list(self.named_children()):
            layer.register_forward_hook(
                lambda module, args, output, name=name: self.seen.update({name: output.dtype}))

    def forward(self, x):
        return self.head(self.backbone(x))


def test_whole_model_runs_in_bfloat16_and_its_weights_do_not():
    model = Model()
    wrapper = build_optim_wrapper(model, CFG)
    with wrapper.optim_context(model):
        output = model(torch.ones(3, 4))
    assert model.seen == dict(backbone=torch.bfloat16, head=torch.bfloat16)
    before = model.head.bias.detach().clone()
    wrapper.update_params(output.float().sum())
    # d(sum)/d(bias) is the batch size, 3, for any weights.
    assert torch.allclose(model.head.bias, before - 0.1 * 3) and model.head.bias.dtype == torch.float32


def test_named_modules_run_in_bfloat16_and_return_float32():
    model = Model()
    wrapper = build_optim_wrapper(model, dict(CFG, modules=('backbone', )))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    with wrapper.optim_context(model):
        feature = model.backbone(x)
        assert model.head(feature).dtype == feature.dtype == torch.float32
    expected = nn.functional.linear(x.bfloat16(), model.backbone.weight.bfloat16(), model.backbone.bias.bfloat16())
    assert torch.equal(feature, expected.float()), 'the digits are those of bfloat16'
    assert 'forward' not in vars(model.backbone)
    assert torch.equal(model.backbone(x), nn.functional.linear(x, model.backbone.weight, model.backbone.bias))


def test_a_named_tuple_stays_one():
    class Pair(NamedTuple):
        first: torch.Tensor
        second: list

    class Twice(nn.Linear):
        def forward(self, x):
            return Pair(super().forward(x), [super().forward(x)])

    model = nn.Sequential()
    model.add_module('backbone', Twice(4, 4))
    wrapper = build_optim_wrapper(model, dict(CFG, modules=('backbone', )))
    with wrapper.optim_context(model):
        found = model.backbone(torch.ones(3, 4))
    assert type(found) is Pair and found.first.dtype == found.second[0].dtype == torch.float32


def test_forward_is_restored_after_an_error():
    model = Model()
    wrapper = build_optim_wrapper(model, dict(CFG, modules=('backbone', )))
    with pytest.raises(RuntimeError), wrapper.optim_context(model):
        model.backbone(torch.ones(3, 5))
    assert 'forward' not in vars(model.backbone) and not torch.is_autocast_enabled('cpu')


def test_a_forward_of_the_instance_comes_back():
    model = Model()
    own = model.backbone.forward = lambda x: 2 * x
    wrapper = build_optim_wrapper(model, dict(CFG, modules=('backbone', 'backbone')))
    with wrapper.optim_context(model):
        assert torch.equal(model.backbone(torch.ones(1, 4)), torch.full((1, 4), 2.))
    assert model.backbone.forward is own


def test_named_modules_are_found_in_a_model_wrapped_by_ddp(tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        model = MMDistributedDataParallel(Model())
        wrapper = build_optim_wrapper(model, dict(CFG, modules=('backbone', )))
        x, layer = torch.randn(3, 4), model.module.backbone
        with wrapper.optim_context(model):
            output = layer(x)
        expected = nn.functional.linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16())
        assert torch.equal(output, expected.float())
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize('make', [nn.LayerNorm, PerViTLayerNorm2d])
def test_gradients_of_norms_are_those_of_float32(make):
    """torch would add them up in bfloat16, where a sum of ones stops at 256."""
    norm, x = make(16), torch.randn(4, 16, 56, 56, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    x, x_exact = ((x if make is PerViTLayerNorm2d else x.movedim(1, -1)).clone().requires_grad_() for _ in range(2))
    wrapper = build_optim_wrapper(norm, CFG)
    with wrapper.optim_context(norm):
        y = norm(x.bfloat16())
    y.float().sum().backward()
    assert y.dtype == torch.float32 and norm.bias.grad.tolist() == [4 * 56 * 56] * 16
    exact = make(16)
    exact(x_exact).sum().backward()
    torch.testing.assert_close(norm.weight.grad, exact.weight.grad)
    assert norm(x_exact.bfloat16().float()).equal(exact(x_exact)), 'without autocast nothing changes'
    with torch.autocast('cpu', torch.bfloat16):
        assert make(16).double()(x_exact.double()).dtype == torch.float64


def test_gradients_of_pervit_are_near_those_of_float32():
    """Over 32 images, so that sums are long. Gradients that are zero but for rounding are left out."""
    torch.manual_seed(0)
    model = PerViT(TINY_ARCH, img_size=56)
    model.init_weights()
    x, weights = torch.randn(32, 3, 56, 56), torch.randn(32, 24)
    (model(x)[0] * weights).sum().backward()
    exact = {name: p.grad.clone() for name, p in model.named_parameters()}
    largest = max(gradient.norm() for gradient in exact.values())
    model.zero_grad()
    with build_optim_wrapper(model, CFG).optim_context(model):
        output = model(x)[0]
    (output.float() * weights).sum().backward()
    for name, param in model.named_parameters():
        assert param.grad.dtype == torch.float32
        if exact[name].norm() > 1e-3 * largest:
            similarity = torch.cosine_similarity(param.grad.flatten(), exact[name].flatten(), dim=0)
            assert similarity > 0.98, (name, float(similarity))
            assert param.grad.norm().item() == pytest.approx(exact[name].norm().item(), rel=0.1), name


@pytest.mark.parametrize('modules', ['backbone', (1, )])
def test_modules_must_be_names(modules):
    with pytest.raises(TypeError, match='modules'):
        build_optim_wrapper(Model(), dict(CFG, modules=modules))


def test_unknown_module_is_named():
    model = Model()
    wrapper = build_optim_wrapper(model, dict(CFG, modules=('neck', )))
    with pytest.raises(ValueError, match="'neck'.*backbone.*head"), wrapper.optim_context(model):
        pass
