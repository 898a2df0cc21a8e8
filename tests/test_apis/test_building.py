"""Models of configs, with weights."""
import pytest
import torch
from conftest import TINY_ARCH
from mmengine.config import Config

from pervit_mm.apis.building import build, build_model, load_strictly
from pervit_mm.models import PerViT

CONFIG = Config(dict(model=dict(type='PerViT', arch=TINY_ARCH, img_size=16)))


def test_models_are_built_in_eval_mode_with_the_weights():
    source = PerViT(TINY_ARCH, img_size=16)
    source.init_weights()
    model = build_model(CONFIG, source.state_dict())
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())


def test_what_does_not_fit_is_named():
    state = PerViT(TINY_ARCH, img_size=16).state_dict()
    model, before = torch.nn.Linear(2, 3), torch.zeros(3)
    torch.nn.init.zeros_(model.bias)
    with pytest.raises(ValueError, match=r"^file 'a' is not of this config: weight is \(1, 2\) there and \(3, 2\) in "
                       'the config: give a checkpoint of this model, or the config that the checkpoint was '
                       'trained with$'):
        load_strictly(model, dict(weight=torch.ones(1, 2), bias=torch.ones(3)), "file 'a'")
    assert torch.equal(model.bias, before), 'nothing is loaded'
    with pytest.raises(ValueError, match='^checkpoint is not of this config: .* is not in it; extra is not in '
                       'the config: give a checkpoint of this model, or the config that the checkpoint was '
                       'trained with$'):
        build_model(CONFIG, {**{key: state[key] for key in list(state)[1:]}, 'extra': torch.ones(1)})
    with pytest.raises(ValueError, match='^the model of the config cannot be built: NoSuch'):
        build(dict(type='NoSuch'), None)
