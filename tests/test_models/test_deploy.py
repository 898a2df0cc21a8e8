"""Deployed checkpoints load into a model built from the same config, and nowhere else by accident."""
import copy

import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from pervit_mm.models import PerViT


class Classifier(nn.Module):
    """Something around a backbone."""

    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = PerViT(TINY_ARCH, img_size=28, **kwargs)


def outputs(model, side=28):
    with torch.no_grad():
        return model.eval().backbone(torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3)))[0]


@pytest.mark.parametrize('load', [lambda m, s: m.load_state_dict(s, strict=True), load_state_dict])
@pytest.mark.parametrize('kwargs, grids', [
    (dict(), None), (dict(window_size=4, global_attn_indexes=(1, )), [(7, 7), (10, 10)])])
def test_a_deployed_state_dict_loads_by_torch_and_by_mmengine(load, kwargs, grids):
    source = randomize(Classifier(**kwargs)).eval()
    deployed, expected = copy.deepcopy(source), outputs(source)
    deployed.backbone.switch_to_deploy(grids)
    other = Classifier(**kwargs)
    load(other, deployed.state_dict())
    torch.testing.assert_close(outputs(other), outputs(deployed), atol=0, rtol=0)
    torch.testing.assert_close(outputs(other), expected, atol=1e-5, rtol=1e-4)
    if grids:
        torch.testing.assert_close(outputs(other, 40), outputs(source, 40), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match='was deployed for the token grids'):
        outputs(other, 48)


def test_a_trained_state_dict_leaves_the_form_alone():
    model = Classifier()
    model.load_state_dict(randomize(Classifier()).state_dict())
    assert model.backbone.position_proj is not None


def test_no_training_from_a_deployed_checkpoint(tmp_path):
    model = randomize(Classifier())
    model.backbone.switch_to_deploy()
    path = str(tmp_path / 'deployed.pth')
    torch.save(dict(state_dict=model.state_dict()), path)
    fresh = PerViT(TINY_ARCH, img_size=28, init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'))
    with pytest.raises(ValueError, match='deployed.pth is deployed, for inference alone'):
        fresh.init_weights()
