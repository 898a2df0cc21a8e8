"""Nonlocality against closed forms."""
import pytest
import torch
from conftest import TINY_ARCH

from pervit_mm import ops
from pervit_mm.analysis import nonlocality, position_nonlocality
from pervit_mm.models import PerViT


def test_nonlocality_equals_its_closed_forms():
    identity, uniform = torch.eye(12), torch.full((12, 12), 1 / 12)
    assert nonlocality(identity, (3, 4), 0.5) == 0
    distance = ops.pairwise_distances((3, 4), 0.5)
    assert nonlocality(uniform, (3, 4), 0.5).item() == pytest.approx(distance.mean().item() / 12)
    with pytest.raises(ValueError, match='no Φp'):
        position_nonlocality(PerViT(TINY_ARCH, position_cfg=None))
