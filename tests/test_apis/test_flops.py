"""FLOPs against a closed form, and those of the paper's sizes."""
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.config import Config

from pervit_mm.apis.configs import input_shape
from pervit_mm.apis.flops import count_flops, has_feature_stage_only
from pervit_mm.models import PerViT

ARCH = dict(embed_dims=(8, 16), depths=(1, 2), num_heads=2, stem_channels=(4, ))


class Attention(nn.Module):

    def forward(self, x):
        return F.scaled_dot_product_attention(x[:, :, :5], x, x[..., :3])


def test_attention_products_are_counted():
    # q (1, 2, 5, 7), k (1, 2, 11, 7), v (1, 2, 11, 3)
    assert count_flops(Attention(), (2, 11, 7)).flops == 2 * 5 * 11 * (7 + 3)


@pytest.mark.parametrize('size', [(16, 16), (12, 21)])
def test_flops_equal_a_closed_form(size):
    model = PerViT(ARCH, img_size=16)
    params = sum(p.numel() for p in model.parameters())
    h1, w1 = -(-size[0] // 2), -(-size[1] // 2)
    height, width = -(-h1 // 2), -(-w1 // 2)
    tokens = height * width
    # Stem: two 3 x 3 convolutions, their norms folded into them, and the 1 x 1.
    expected = h1 * w1 * 9 * 3 * 4 + tokens * (9 * 4 * 8 + 8 * 8)
    for c_in, c_out in ((8, 16), (16, 16), (16, 16)):
        expected += tokens * 9 * c_in  # CPE
        expected += tokens * c_in * (3 * c_in + c_in)  # qkv and output
        expected += 2 * tokens * tokens * c_in  # q kᵀ and weights · v, all heads
        expected += tokens * 4 * c_in * (c_in + c_out)  # FFN
        expected += tokens * c_in * c_out if c_in != c_out else 0  # Res
        expected += 2 * 5 * tokens * c_in  # LayerNorm with affine: 5 for each element
    expected += 5 * tokens * 16  # last norm
    count = count_flops(model, (3, *size))
    assert count.flops == expected
    assert count.params == params
    assert 'blocks.0' in count.table


def test_the_model_is_left_as_it_was():
    model = PerViT(ARCH, img_size=16).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count_flops(model, (3, 16, 16))
    assert model.training
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize('arch, flops', [('tiny', 1.75e9), ('small', 4.76e9), ('medium', 9.45e9)])
def test_flops_of_the_paper_s_sizes(arch, flops):
    assert count_flops(PerViT(arch), (3, 224, 224)).flops == pytest.approx(flops, rel=5e-3)


@pytest.mark.parametrize('shape', [(3, 224), (3, 0, 224), 224.])
def test_a_wrong_input_shape_is_named(shape):
    with pytest.raises(ValueError, match='input_shape must be three positive integers'):
        count_flops(PerViT(ARCH, img_size=16), shape)


class Toolbox(nn.Module):
    """A model as the toolboxes have it. Backbone and head are one matrix product each.

    The head named 'roi_head' wants more than images.
    """

    def __init__(self, head):
        super().__init__()
        self.backbone = nn.Linear(5, 7, bias=False)
        setattr(self, head, nn.Linear(7, 2, bias=False))
        self.head_name = head

    def extract_feat(self, inputs):
        return self.backbone(inputs)

    def forward(self, inputs, data_samples=None):
        if self.head_name == 'roi_head':
            raise TypeError('data_samples must be given')
        return getattr(self, self.head_name)(self.extract_feat(inputs))


@pytest.mark.parametrize('head', ['head', 'decode_head', 'roi_head'])
def test_classifiers_and_segmentors_are_counted_to_their_logits(head):
    """A detector is counted to its features."""
    model = Toolbox(head)
    assert has_feature_stage_only(model) == (head == 'roi_head')
    expected = 3 * 4 * 5 * 7 + (0 if head == 'roi_head' else 3 * 4 * 7 * 2)
    assert count_flops(model, (3, 4, 5)).flops == expected


def test_a_config_is_counted_at_the_image_size_it_tests_with():
    pipeline = [dict(type='Resize', scale=(64, 48), keep_ratio=False), dict(type='PackInputs')]
    cfg = Config(dict(default_scope='mmseg', model=dict(backbone=dict(in_channels=1)),
                      test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    assert input_shape(cfg) == (1, 48, 64)
    cfg.test_dataloader.dataset.pipeline[0].keep_ratio = True
    assert input_shape(cfg) == (1, 224, 224) and input_shape(cfg, (32, 16)) == (1, 32, 16)
    assert input_shape(Config(dict(model=dict(type='PerViT')))) == (3, 224, 224)
    classifier = dict(default_scope='mmpretrain', model=dict(backbone=dict(img_size=(28, 30))))
    assert input_shape(Config(classifier)) == (3, 28, 30)


def test_a_model_whose_eval_returns_nothing_is_counted():
    """Some of MMPretrain's backbones have such a ``train``."""

    class Silent(nn.Linear):

        def train(self, mode=True):
            super().train(mode)

    # (1, 3, 4, 5) times a 5 x 7 matrix.
    assert count_flops(Silent(5, 7, bias=False), (3, 4, 5)).flops == 3 * 4 * 5 * 7
