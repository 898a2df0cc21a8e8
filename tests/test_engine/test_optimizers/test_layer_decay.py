"""Layer-wise learning rate decay, by the name of every parameter."""
import re

import pytest
import torch
from conftest import TINY_ARCH
from mmengine.optim import build_optim_wrapper
from torch import nn

from pervit_mm.models import PerViT, PerViTFeaturePyramid


def wrapper_cfg(**paramwise):
    return dict(
        type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.5),
        constructor='PerViTLayerDecayConstructor', paramwise_cfg=paramwise)


class Detector(nn.Module):
    """Backbone, neck and head. Only the backbone has ``get_layer_depth``."""

    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = PerViT(TINY_ARCH, img_size=28, out_type='featmap', out_indices=(0, 2), **kwargs)
        self.neck = PerViTFeaturePyramid(24, 8, in_stride=4, out_strides=(4, 8))
        self.head = nn.Linear(8, 3)


def expected_depth(name):
    """0 for parameters before the three blocks, 4 for parameters after them."""
    if re.match(r'backbone\.(stem|position_proj)\.', name):
        return 0
    block = re.match(r'backbone\.blocks\.(\d)\.', name)
    return int(block[1]) + 1 if block else 4


def groups_by_name(model, optimizer):
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    return {name: groups.get(id(param)) for name, param in model.named_parameters()}


def test_every_parameter_gets_the_rate_of_its_depth():
    model = Detector()
    wrapper = build_optim_wrapper(
        model, wrapper_cfg(layer_decay_rate=0.5, norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))
    groups = groups_by_name(model, wrapper.optimizer)
    seen = set()
    for name, param in model.named_parameters():
        depth = expected_depth(name)
        seen.add(depth)
        assert groups[name]['lr'] == pytest.approx(0.1 * 0.5**(4 - depth)), name
        assert groups[name]['weight_decay'] == (0 if param.dim() == 1 else 0.5), name
    assert seen == {0, 1, 2, 3, 4}


def test_custom_keys_multiply_the_rate_of_the_depth():
    model = Detector()
    wrapper = build_optim_wrapper(model, wrapper_cfg(
        layer_decay_rate=0.5, custom_keys={'attn.position': dict(lr_mult=3., decay_mult=0.)}))
    groups = groups_by_name(model, wrapper.optimizer)
    assert groups['backbone.blocks.1.attn.position.conv1.weight']['lr'] == pytest.approx(0.1 * 3 * 0.25)
    assert groups['backbone.blocks.1.attn.position.conv1.weight']['weight_decay'] == 0
    assert groups['backbone.blocks.1.attn.qkv.weight']['lr'] == pytest.approx(0.1 * 0.25)


def test_frozen_parameters_are_left_out():
    model = Detector(frozen_stages=1)
    groups = groups_by_name(model, build_optim_wrapper(model, wrapper_cfg(layer_decay_rate=0.5)).optimizer)
    assert {name for name, group in groups.items() if group is None} == {
        name for name, param in model.named_parameters() if not param.requires_grad}
    assert groups['backbone.blocks.2.norm1.weight']['lr'] == pytest.approx(0.05)


def test_mmpretrains_own_constructor_agrees():
    """On a classifier, which passes ``get_layer_depth`` on to its backbone."""
    pytest.importorskip('mmpretrain')
    from mmengine.registry import MODELS, init_default_scope
    init_default_scope('mmpretrain')
    model = MODELS.build(dict(
        type='ImageClassifier', backbone=dict(type='PerViT', arch=TINY_ARCH, img_size=28),
        head=dict(type='LinearClsHead', num_classes=2, in_channels=24)))
    paramwise = dict(layer_decay_rate=0.7, norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.)
    ours = groups_by_name(model, build_optim_wrapper(model, wrapper_cfg(**paramwise)).optimizer)
    theirs = groups_by_name(model, build_optim_wrapper(
        model, {**wrapper_cfg(**paramwise), 'constructor': 'LearningRateDecayOptimWrapperConstructor'}).optimizer)
    for name in ours:
        assert ours[name]['lr'] == pytest.approx(theirs[name]['lr']), name
        assert ours[name]['weight_decay'] == theirs[name]['weight_decay'], name


@pytest.mark.parametrize('rate', [None, 0, 1.5, 'half', True])
def test_a_rate_out_of_range_is_named(rate):
    paramwise = {} if rate is None else dict(layer_decay_rate=rate)
    with pytest.raises(ValueError, match='layer_decay_rate above 0 and at most 1'):
        build_optim_wrapper(Detector(), wrapper_cfg(**paramwise))


def test_a_model_that_tells_no_depth_is_refused():
    with pytest.raises(ValueError, match='Linear holds no submodule with get_layer_depth'):
        build_optim_wrapper(nn.Linear(2, 2), wrapper_cfg(layer_decay_rate=0.5))


def test_an_optimizer_step_moves_by_the_scaled_rate():
    model = Detector()
    wrapper = build_optim_wrapper(model, wrapper_cfg(layer_decay_rate=0.5, norm_decay_mult=0., bias_decay_mult=0.))
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    wrapper.optimizer.step()
    # Adam's first step has the size of the learning rate, against the sign of the gradient. Biases don't decay.
    for name in ('backbone.blocks.0.attn.proj.bias', 'backbone.blocks.2.attn.proj.bias', 'head.bias'):
        moved = before[name] - dict(model.named_parameters())[name]
        torch.testing.assert_close(moved, torch.full_like(moved, 0.1 * 0.5**(4 - expected_depth(name))))
