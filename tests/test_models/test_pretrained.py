"""Weights by init_cfg=dict(type='Pretrained', ...): what is loaded, what is logged, and what is refused."""
import logging

import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.logging import MMLogger

from pervit_mm.models import PerViT


@pytest.fixture
def log(caplog):
    """Records of MMEngine's current logger."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
    logger.setLevel(level)


def classifier(tmp_path, **kwargs):
    """Path of a classifier's checkpoint, and the backbone saved in it."""
    backbone = randomize(PerViT(TINY_ARCH, img_size=28, **kwargs))
    state = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    state['head.fc.weight'] = torch.zeros(2, 24)
    path = str(tmp_path / 'classifier.pth')
    torch.save(dict(state_dict=state, meta=dict()), path)
    return path, backbone


def dense(path, prefix='backbone.', **kwargs):
    model = PerViT(TINY_ARCH, img_size=28, out_type='featmap', out_indices=(0, 2),
                   init_cfg=dict(type='Pretrained', checkpoint=path, prefix=prefix), **kwargs)
    model.init_weights()
    return model


def test_loaded_missing_and_unexpected_reach_the_log(tmp_path, log):
    path, source = classifier(tmp_path, qkv_bias=True)
    model = dense(path)
    own, there = model.state_dict(), source.state_dict()
    for key in own.keys() & there.keys():
        torch.testing.assert_close(own[key], there[key], atol=0, rtol=0)
    line, = (r.getMessage() for r in log.records if 'tensors loaded' in r.getMessage())
    assert f'{len(own) - 2} of {len(own)} tensors loaded from {path}' in line
    assert 'missing there, left as initialized: norm0.bias, norm0.weight;' in line
    assert ('unexpected there, not used: blocks.0.attn.qkv.bias, blocks.1.attn.qkv.bias, blocks.2.attn.qkv.bias'
            in line)
    torch.testing.assert_close(own['norm0.weight'], torch.ones(24 if model.out_channels[0] == 24 else 16))


def test_pretrained_weights_survive_the_whole_models_init(tmp_path):
    path, source = classifier(tmp_path)

    from mmengine.model import BaseModule

    class Model(BaseModule):

        def __init__(self):
            super().__init__(init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02))
            self.backbone = PerViT(TINY_ARCH, img_size=28, init_cfg=[
                dict(type='Pretrained', checkpoint=path, prefix='backbone.')])

    model = Model()
    model.init_weights()
    for key, value in source.state_dict().items():
        torch.testing.assert_close(model.backbone.state_dict()[key], value, atol=0, rtol=0)
    model.backbone.blocks[0].attn.qkv.weight.data.zero_()
    model.backbone.init_weights()  # a second time does nothing
    assert not model.backbone.blocks[0].attn.qkv.weight.any()


@pytest.mark.parametrize('prefix', ['backbone', 'backbone.'])
def test_prefix_works_with_and_without_its_dot(tmp_path, prefix):
    path, source = classifier(tmp_path)
    torch.testing.assert_close(dense(path, prefix).blocks[1].ffn.fc1.weight, source.blocks[1].ffn.fc1.weight)


@pytest.mark.parametrize('prefix', [None, 'encoder.'])
def test_nothing_loaded_is_an_error(tmp_path, prefix):
    path, _ = classifier(tmp_path)
    with pytest.raises(ValueError, match=r'(?s)no weight of PerViT is in .*from scratch: its keys begin with '
                                         r'backbone\. \(\d+\), head\. \(1\).*Set prefix'):
        dense(path, prefix)


def test_another_arch_is_an_error(tmp_path):
    path, _ = classifier(tmp_path, position_cfg=dict(kernel_size=1))
    with pytest.raises(ValueError, match=r'holds another PerViT .*conv1.weight is \(8, 8, 1, 1\) there and '
                                         r'\(8, 8, 3, 3\) here'):
        dense(path)


@pytest.mark.parametrize('stem_cfg', [None, dict(type='patchify')])
def test_gray_weights_see_a_gray_image_alike_in_color(tmp_path, log, stem_cfg):
    path, source = classifier(tmp_path, in_channels=1, stem_cfg=stem_cfg)
    model = dense(path, stem_cfg=stem_cfg).eval()
    gray = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(
            model.stem(gray.expand(-1, 3, -1, -1)), source.eval().stem(gray), atol=1e-5, rtol=1e-5)
    assert any('is fitted from 1 to 3 input channels' in r.getMessage() for r in log.records)


def test_color_weights_see_a_gray_image_alike(tmp_path):
    path, source = classifier(tmp_path)
    model = dense(path, in_channels=1).eval()
    gray = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(
            model.stem(gray), source.eval().stem(gray.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-5)
