"""Peripheral initialization, alone and together with other rules."""
import copy

import pytest
import torch
from conftest import TINY_ARCH
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS, WEIGHT_INITIALIZERS, init_default_scope

from pervit_mm import ops
from pervit_mm.engine import PeripheralInit, init_schedule
from pervit_mm.models import PerViT

TRUNC_NORMAL = dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.)
WIDE_ARCH = {**TINY_ARCH, 'position_channels': 32}  # enough weights for statistics


def classifier(backbone_init=None, model_init=None, arch=TINY_ARCH, **backbone):
    init_default_scope('mmpretrain')
    model = MODELS.build(
        dict(type='ImageClassifier', init_cfg=model_init,
             backbone=dict(type='PerViT', arch=arch, img_size=28, init_cfg=backbone_init, **backbone),
             head=dict(type='LinearClsHead', num_classes=400, in_channels=24, init_cfg=TRUNC_NORMAL)))
    model.init_weights()
    return model


def check_values(backbone, size=(-5, 4), strength=(3, 0.01)):
    """Check the initial values of every part."""
    torch.testing.assert_close(backbone.position_proj.weight, torch.full((8, 1), -0.02))
    assert backbone.position_proj.bias.abs().max() == 0
    depth = len(backbone.blocks)
    for i, block in enumerate(backbone.blocks):
        position = block.attn.position
        for conv in (position.conv1, position.conv2):
            torch.testing.assert_close(conv.weight, torch.full_like(conv.weight, 0.02))
            assert conv.bias.abs().max() == 0
        share = i / (depth - 1)
        for param, value in ((position.norm1.weight, 1.), (position.norm1.bias, 0.),
                             (position.norm2.bias, size[0] + share * (size[1] - size[0])),
                             (position.norm2.weight, strength[0] + share * (strength[1] - strength[0]))):
            torch.testing.assert_close(param, torch.full_like(param, value))
        for linear in (block.attn.qkv, block.attn.proj, block.ffn.fc1, block.ffn.fc2):
            assert 0.015 < linear.weight.std() < 0.025 and linear.weight.abs().max() < 0.15
            assert linear.bias is None or linear.bias.abs().max() == 0
    # torch's default for a linear layer or convolution: weight and bias are uniform within 1 / sqrt(fan_in).
    stem, blocks = backbone.stem, backbone.blocks
    default = [blocks[1].shortcut, stem.layers[1].conv, blocks[0].cpe.conv, stem.proj]
    for layer in default:
        bound = layer.weight[0].numel()**-0.5
        assert 0.8 * bound < layer.weight.abs().max() <= bound and 0.4 * bound < layer.bias.abs().max() <= bound
    for norm in (backbone.norm2, backbone.blocks[0].norm1, backbone.stem.layers[0].norm):
        assert (norm.weight == 1).all() and (norm.bias == 0).all()


@pytest.mark.parametrize('backbone_init', [
    None, dict(type='PeripheralInit'), dict(type='pervit_mm.PeripheralInit'), dict(type=PeripheralInit),
    dict(type='PeripheralInit', size=(-5, 4), strength=(3, 0.01)), [TRUNC_NORMAL, dict(type='PeripheralInit')]
])
@pytest.mark.parametrize('model_init', [
    None, TRUNC_NORMAL, [TRUNC_NORMAL, dict(type='Constant', layer=['LayerNorm'], val=2.)]
])
def test_initial_values_survive_rules_for_the_whole_model(backbone_init, model_init):
    model = classifier(backbone_init, model_init)
    check_values(model.backbone)
    assert 0.018 < model.head.fc.weight.std() < 0.022 and (model.head.fc.bias == 0).all()


def test_a_users_own_rule_comes_after_the_default():
    model = classifier(dict(type='Constant', layer='Conv2d', val=0.5))
    assert (model.backbone.blocks[0].cpe.conv.weight == 0.5).all()
    assert (model.backbone.position_proj.weight == -0.02).all()


def test_options_reach_the_blocks():
    check_values(classifier(dict(type='PeripheralInit', size=(-2, 6), strength=(1, 0.5))).backbone, (-2, 6), (1, 0.5))


def test_a_rule_on_the_model_reaches_the_backbone():
    model = classifier(None, dict(type='PeripheralInit', size=(-2, 6), strength=(1, 0.5)))
    check_values(model.backbone, (-2, 6), (1, 0.5))
    # A rule on the backbone overrides one on the model.
    model = classifier(dict(type='PeripheralInit', size=(-3, 3)), dict(type='PeripheralInit', size=(-2, 6)))
    check_values(model.backbone, size=(-3, 3))
    with pytest.raises(ValueError, match='Linear holds no PerViT'):
        PeripheralInit()(torch.nn.Linear(2, 2))


@pytest.mark.parametrize('scheme, size, strength', [('local', (-5, -5), (3, 3)), ('global', (4, 4), (0.01, 0.01))])
def test_local_and_global_schemes_set_all_blocks_alike(scheme, size, strength):
    check_values(classifier(dict(type='PeripheralInit', scheme=scheme)).backbone, size, strength)


def test_trunc_normal_scheme_draws_the_position_weights():
    backbone = classifier(dict(type='PeripheralInit', scheme='trunc_normal'), arch=WIDE_ARCH).backbone
    for block in backbone.blocks:
        assert 0.018 < block.attn.position.conv1.weight.std() < 0.022
        assert (block.attn.position.norm2.weight == 1).all() and (block.attn.position.norm2.bias == 0).all()
    assert backbone.position_proj.weight.std() > 0.01


def test_symmetry_noise_spreads_weights_around_the_constant():
    backbone = classifier(dict(type='PeripheralInit', symmetry_noise=0.1), arch=WIDE_ARCH).backbone
    weight = backbone.blocks[0].attn.position.conv1.weight
    assert 0.0018 < weight.std() < 0.0022 and weight.mean().item() == pytest.approx(0.02, rel=0.02)
    assert 0.0012 < backbone.position_proj.weight.std() < 0.0028
    assert (backbone.blocks[0].attn.position.norm2.bias == -5).all()


def test_constant_weights_keep_hidden_channels_equal_under_training_and_noise_breaks_them():
    spread = {}
    for noise in (0., 0.1):
        torch.manual_seed(0)
        backbone = classifier(dict(type='PeripheralInit', symmetry_noise=noise)).backbone
        optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-3)
        for _ in range(5):
            optimizer.zero_grad()
            backbone(torch.randn(2, 3, 28, 28))[0].square().sum().backward()
            optimizer.step()
        position = backbone.blocks[0].attn.position
        # Spread over the output channels of the first convolution and the input channels of the second. Without noise
        # only the order of summation makes a difference.
        spread[noise] = max(position.conv1.weight.std(0).max().item(), position.conv2.weight.std(1).max().item())
    assert spread[0.] < 1e-3 * spread[0.1]


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
@pytest.mark.parametrize('order', ['alone', 'first', 'last'])
@pytest.mark.parametrize('model_init', [None, TRUNC_NORMAL])
def test_pretrained_values_are_kept(tmp_path, kind, order, model_init):
    source = classifier()
    with torch.no_grad():
        for param in source.parameters():
            param.copy_(torch.randn_like(param))
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'source.pth')
    rule = dict(type=kind, checkpoint=str(tmp_path / 'source.pth'), prefix='backbone.')
    rules = dict(alone=rule, first=[rule, dict(type='PeripheralInit')], last=[dict(type='PeripheralInit'), rule])[order]
    model = classifier(rules, model_init)
    for (name, a), b in zip(model.backbone.named_parameters(), source.backbone.parameters()):
        assert torch.equal(a, b), name


def test_nonlocality_rises_with_depth():
    model = PerViT('tiny')
    model.init_weights()
    distance = ops.pairwise_distances((14, 14), 2 / 13)
    with torch.no_grad():
        terms = model.position_terms((14, 14))
    means = [(distance * term.exp()).mean().item() for term in terms]
    assert means == sorted(means) and len(set(means)) == 12
    assert means[0] == pytest.approx(0.0398, abs=5e-5) and means[-1] == pytest.approx(1.0999, abs=5e-5)
    phi = terms[0].exp().reshape(4, 14, 14, 14, 14)
    assert phi[:, 7, 7, 7, 7].tolist() == pytest.approx([0.9492] * 4, abs=5e-5)
    assert phi[:, 7, 7, 0, 0].tolist() == pytest.approx([0.0004] * 4, abs=5e-5)


def test_init_schedule_is_linear_in_depth():
    assert init_schedule(4, (-5, 4), (3, 0)) == [(-5, 3), (-2, 2), (1, 1), (4, 0)]
    assert init_schedule(1, (-5, 4), (3, 0)) == [(-5, 3)]


@pytest.mark.parametrize('kwargs, message', [
    (dict(size=3), 'size of PeripheralInit must be two numbers, .* got 3'),
    (dict(strength=(1, 2, 3)), 'strength'), (dict(scheme='random'), "scheme .* must be one of .* got 'random'"),
    (dict(symmetry_noise=-1), 'symmetry_noise must be a number of at least 0, got -1')
])
def test_mistakes_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        WEIGHT_INITIALIZERS.build(dict(type='PeripheralInit', **kwargs))


def test_init_cfg_given_is_not_changed():
    rules = [TRUNC_NORMAL]
    before = copy.deepcopy(rules)
    PerViT(TINY_ARCH, img_size=28, init_cfg=rules)
    assert rules == before
