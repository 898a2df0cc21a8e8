"""The average of all weights by lists of tensors, against MMEngine's."""
import pytest
import torch
from conftest import TINY_ARCH
from kernel_count import KernelCount
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS

from pervit_mm.engine import PerViTExponentialMovingAverage
from pervit_mm.models import PerViT


@pytest.mark.parametrize('options', [dict(), dict(update_buffers=True), dict(interval=2, momentum=0.4)])
def test_averages_are_bit_equal_to_mmengines(options):
    model = PerViT(TINY_ARCH, img_size=28).train()
    options = dict(dict(model=model, momentum=0.1), **options)
    ours = MODELS.build(dict(type='PerViTExponentialMovingAverage', **options))
    theirs = ExponentialMovingAverage(**options)
    for _ in range(4):
        with torch.no_grad():
            for param in model.parameters():
                param.add_(torch.randn_like(param))
            model(torch.randn(2, 3, 28, 28))  # moves BatchNorm's statistics
        ours.update_parameters(model)
        theirs.update_parameters(model)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    assert not torch.equal(ours.module.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.weight)


def test_all_weights_move_by_one_call():
    model = PerViT(TINY_ARCH, img_size=28)
    average = PerViTExponentialMovingAverage(model)
    average.update_parameters(model)
    with KernelCount() as count:
        average.update_parameters(model)
    assert count.outside['_foreach_lerp_'] == 1 and count.outside['lerp_'] == 0
