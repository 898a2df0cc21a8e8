"""FLOPs against a closed form, and against the parameter counts of the paper's sizes."""
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from pervit_mm.analysis.flops import count_flops
from pervit_mm.models import PerViT

ARCH = dict(embed_dims=(8, 16), depths=(1, 2), num_heads=2, stem_channels=(4, ))


class Attention(nn.Module):

    def forward(self, x):
        return F.scaled_dot_product_attention(x[:, :, :5], x, x[..., :3])


def test_attention_products_count():
    # q (1, 2, 5, 7), k (1, 2, 11, 7), v (1, 2, 11, 3)
    assert count_flops(Attention(), (2, 11, 7)).flops == 2 * 5 * 11 * (7 + 3)


@pytest.mark.parametrize('size', [(16, 16), (12, 21)])
def test_closed_form(size):
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
def test_sizes_of_the_paper(arch, flops):
    assert count_flops(PerViT(arch), (3, 224, 224)).flops == pytest.approx(flops, rel=5e-3)


@pytest.mark.parametrize('shape', [(3, 224), (3, 0, 224), 224.])
def test_bad_shape(shape):
    with pytest.raises(ValueError, match='input_shape must be three positive integers'):
        count_flops(PerViT(ARCH, img_size=16), shape)


def test_model_whose_eval_returns_nothing():
    """As some of MMPretrain's backbones have it."""

    class Silent(nn.Linear):

        def train(self, mode=True):
            super().train(mode)

    # (1, 3, 4, 5) times a 5 x 7 matrix.
    assert count_flops(Silent(5, 7, bias=False), (3, 4, 5)).flops == 3 * 4 * 5 * 7
