"""Deployed checkpoints load into a model built from the same config, and no other checkpoint is taken for deployed."""
import copy

import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from pervit_mm.apis.building import load_strictly
from pervit_mm.models import PerViT
from pervit_mm.models.deployment import is_deployed_state
from pervit_mm.utils.errors import UserError


class Classifier(nn.Module):
    """A module around a backbone."""

    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = PerViT(TINY_ARCH, img_size=28, **kwargs)


def outputs(model, side=28):
    with torch.no_grad():
        return model.eval().backbone(torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3)))[0]


@pytest.mark.parametrize('load', [
    lambda m, s: m.load_state_dict(s, strict=True), load_state_dict, lambda m, s: load_strictly(m, s, 'file')])
@pytest.mark.parametrize('kwargs, grids', [
    (dict(), None), (dict(position_cfg=None), None),
    (dict(window_size=4, global_attn_indexes=(1, )), [(7, 7), (10, 10)])])
def test_a_deployed_state_dict_loads_by_torch_and_by_mmengine(load, kwargs, grids):
    source = randomize(Classifier(**kwargs)).eval()
    deployed, expected = copy.deepcopy(source), outputs(source)
    deployed.backbone.switch_to_deploy(grids)
    assert not any('.norm.' in key for key in deployed.state_dict()), 'of the stem'
    other = Classifier(**kwargs)
    load(other, deployed.state_dict())
    torch.testing.assert_close(outputs(other), outputs(deployed), atol=0, rtol=0)
    torch.testing.assert_close(outputs(other), expected, atol=1e-5, rtol=1e-4)
    if grids:
        torch.testing.assert_close(outputs(other, 40), outputs(source, 40), atol=1e-5, rtol=1e-4)
    if 'position_cfg' in kwargs:  # without Φp every grid works
        torch.testing.assert_close(outputs(other, 48), outputs(source, 48), atol=1e-5, rtol=1e-4)
        return
    with pytest.raises(ValueError, match='was deployed for the token grids'):
        outputs(other, 48)


@pytest.mark.parametrize('shapes', [(14, 20), 28, []])
def test_a_grid_in_place_of_a_list_of_grids_is_refused(shapes):
    model = PerViT(TINY_ARCH, img_size=28)
    with pytest.raises(UserError, match=r'hw_shapes must be token grids .* such as \[\(14, 20\)\], got'):
        model.switch_to_deploy(shapes)
    assert not is_deployed_state(model.state_dict())


def test_a_model_deployed_in_inference_mode_has_gradients_of_its_input():
    """As Grad-CAM asks for."""
    model = randomize(PerViT(TINY_ARCH, img_size=28)).eval()
    expected = model(torch.ones(1, 3, 28, 28))[0].detach()
    with torch.inference_mode():
        model.switch_to_deploy()
    images = torch.ones(1, 3, 28, 28, requires_grad=True)
    found, = model(images)
    found.sum().backward()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert images.grad.abs().max() > 0


def test_a_norm_without_statistics_is_not_folded():
    norm = dict(type='BN', track_running_stats=False)
    model = PerViT(TINY_ARCH, img_size=28, stem_cfg=dict(type='conv', norm_cfg=norm))
    model = randomize(model).eval()
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        expected = model(images)[0]
        model.switch_to_deploy()
        torch.testing.assert_close(model(images)[0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('load', [
    lambda m, s: m.load_state_dict(s, strict=False), load_state_dict, lambda m, s: load_strictly(m, s, 'file')])
def test_a_deployed_model_takes_no_trained_weights(load):
    """Its stem would get convolutions without their BatchNorm. A part without the stem is no matter."""
    model = randomize(Classifier())
    trained = copy.deepcopy(model.state_dict())
    model.backbone.switch_to_deploy()
    before = outputs(model)
    with pytest.raises(UserError, match='this PerViT is deployed, and the weights are not'):
        load(model, trained)
    torch.testing.assert_close(outputs(model), before, atol=0, rtol=0)
    model.load_state_dict({key: value for key, value in trained.items() if '.ffn.' in key}, strict=False)


def test_a_model_without_a_cache_is_deployed():
    """As a teacher is, whose weights change in each step."""
    model = randomize(Classifier())
    expected = outputs(model)
    model.backbone.position_cache = None
    model.backbone.switch_to_deploy()
    torch.testing.assert_close(outputs(model), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('kwargs', [
    dict(), dict(position_cfg=None), dict(position_cfg=None, stem_cfg=dict(norm_cfg=dict(type='GN', num_groups=2)))])
def test_a_trained_state_dict_does_not_deploy_the_model(kwargs):
    model, source = Classifier(**kwargs), randomize(Classifier(**kwargs))
    layers = list(model.modules())
    model.load_state_dict(source.state_dict())
    assert list(model.modules()) == layers
    torch.testing.assert_close(outputs(model), outputs(source), atol=0, rtol=0)


@pytest.mark.parametrize('prefix, norm_cfg', [
    ('stem.layers.0.conv.', dict(type='BN')), ('stem.layers.1.', dict(type='BN')), ('stem.', dict(type='BN')),
    ('', dict(type='GN', num_groups=2))])
def test_a_part_of_a_state_dict_is_not_taken_for_a_deployed_one(prefix, norm_cfg):
    """The part is some or all of the stem's convolutions, or everything except norms that are never folded."""
    model = PerViT({**TINY_ARCH, 'stem_channels': (4, 8)}, img_size=28, position_cfg=None,
                   stem_cfg=dict(norm_cfg=norm_cfg))
    part = {key: value for key, value in model.state_dict().items() if key.startswith(prefix) and 'norm' not in key}
    missing, _ = model.load_state_dict(part, strict=False)
    assert part and {f'stem.layers.{i}.norm.weight' for i in (0, 1)} <= set(missing)


def test_a_deployed_state_dict_without_positions_is_refused_by_a_model_with_them():
    deployed = Classifier(position_cfg=None)
    deployed.backbone.switch_to_deploy()
    model = Classifier()
    with pytest.raises(RuntimeError, match='Missing .*backbone.stem.layers.0.norm.weight.*backbone.position_proj'):
        model.load_state_dict(deployed.state_dict())
    assert any('norm' in key for key in model.backbone.stem.state_dict()), 'as it was'


@pytest.mark.parametrize('kwargs, reason', [
    (dict(), 'its Φp is frozen'), (dict(position_cfg=None), 'BatchNorm is folded into the convolutions of its stem')])
def test_training_from_a_deployed_checkpoint_is_refused(tmp_path, kwargs, reason):
    model = randomize(Classifier(**kwargs))
    model.backbone.switch_to_deploy()
    path = str(tmp_path / 'deployed.pth')
    torch.save(dict(state_dict=model.state_dict()), path)
    rule = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    fresh = PerViT(TINY_ARCH, img_size=28, init_cfg=rule, **kwargs)
    with pytest.raises(ValueError, match=f'deployed.pth is deployed, for inference alone: {reason} and would'):
        fresh.init_weights()


@pytest.mark.parametrize('kwargs', [
    dict(), dict(position_cfg=None), dict(stem_cfg=dict(type='patchify'), position_cfg=None)])
def test_a_deployed_state_dict_has_the_marker(kwargs):
    """The marker is needed where neither Φp nor BatchNorm shows that the model is deployed."""
    model, trained = Classifier(**kwargs), Classifier(**kwargs)
    assert 'backbone.deployed' not in model.state_dict()
    model.backbone.switch_to_deploy()
    assert model.state_dict()['backbone.deployed'] == 1
    assert is_deployed_state(model.state_dict(), 'backbone.')
    assert not is_deployed_state(trained.state_dict(), 'backbone.')
    other = Classifier(**kwargs)
    other.load_state_dict(model.state_dict(), strict=True)
    assert other.state_dict().keys() == model.state_dict().keys()
