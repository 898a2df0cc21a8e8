"""Other position modules against their formulas."""
import oracle
import pytest
import torch
from conftest import TINY_ARCH, randomize

from pervit_mm.models import PerViT

GRIDS = [(7, 7), (5, 9), (9, 4), (1, 8), (6, 1), (1, 1)]


def build(**kwargs):
    return randomize(PerViT(TINY_ARCH, img_size=28, **kwargs))


@pytest.mark.parametrize('hw', GRIDS)
def test_euclidean_position_equals_its_formula(hw):
    model = build(position_cfg=dict(type='PerViTEuclideanPosition'))
    position, proj = model.blocks[0].attn.position, model.position_proj
    step = 2 / (max(hw) - 1) if max(hw) > 1 else 2 / 6
    d = oracle.distances(hw, step).flatten(1).float()
    logits = (d[..., None] * proj.weight[:, 0] + proj.bias) @ position.weight.t() + position.bias
    torch.testing.assert_close(position(hw, proj).exp(), logits.sigmoid().permute(2, 0, 1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize('hw', [(7, 7), (5, 9)])
def test_relative_position_bias_is_read_from_its_table(hw):
    model = build(position_cfg=dict(type='PerViTRelativePositionBias'))
    assert model.position_proj is None
    position = model.blocks[0].attn.position
    table = position.table
    size = (2 * hw[0] - 1, 2 * hw[1] - 1)
    table = torch.nn.functional.interpolate(table[None], size=size, mode='bicubic')[0] if hw != (7, 7) else table
    term = position(hw)
    for q in ((0, 0), (hw[0] - 1, 2), (2, 3)):
        for k in ((0, 0), (3, 4), (hw[0] - 1, hw[1] - 1)):
            expected = table[:, k[0] - q[0] + hw[0] - 1, k[1] - q[1] + hw[1] - 1]
            torch.testing.assert_close(term[:, q[0] * hw[1] + q[1], k[0] * hw[1] + k[1]], expected)
