"""Models of configs with weights, and the size of their images."""
from pathlib import Path

import pytest
import torch
from conftest import TINY_ARCH
from mmengine.config import Config

from pervit_mm.loading import build, build_model, image_size_of, load_strictly
from pervit_mm.models import PerViT

NANO = Path(__file__).parents[1] / 'configs' / 'pervit_nano_fashion-mnist.py'
CONFIG = Config(dict(model=dict(type='PerViT', arch=TINY_ARCH, img_size=16)))


def test_image_size():
    def size(*steps, **options):
        cfg = dict(default_scope='mmpretrain', model=dict(backbone=dict(img_size=(28, 30))),
                   test_dataloader=dict(dataset=dict(pipeline=list(steps))))
        return image_size_of(Config({**cfg, **options}))

    crop, resize = dict(type='mmpretrain.CenterCrop', crop_size=24), dict(type='Resize', scale=(36, 32))
    assert size(resize, crop) == (24, 24) and size(crop, resize) == (32, 36)
    assert size(dict(resize, keep_ratio=True)) == (28, 30) and size(test_dataloader=None) == (28, 30)
    dense = dict(default_scope='mmseg')
    assert size(crop, **dense) == (24, 24) and size(dict(resize, keep_ratio=True), **dense) is None
    assert image_size_of(Config.fromfile(NANO)) == (28, 28)
    assert image_size_of(Config.fromfile(NANO.with_stem('pervit_small_384px'))) == (384, 384)


def test_built_in_eval_mode_with_the_weights():
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
                       'the config$'):
        load_strictly(model, dict(weight=torch.ones(1, 2), bias=torch.ones(3)), "file 'a'")
    assert torch.equal(model.bias, before), 'nothing is loaded'
    with pytest.raises(ValueError, match='^checkpoint is not of this config: .* is not in it; extra is not in '
                       'the config$'):
        build_model(CONFIG, {**{key: state[key] for key in list(state)[1:]}, 'extra': torch.ones(1)})
    with pytest.raises(ValueError, match='^the model of the config cannot be built: NoSuch'):
        build(dict(type='NoSuch'), None)
