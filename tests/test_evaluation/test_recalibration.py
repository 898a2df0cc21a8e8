"""Statistics of BatchNorm from clean images."""
import pytest
import torch
from conftest import TINY_ARCH, randomize

from pervit_mm.evaluation import recalibrate
from pervit_mm.models import PerViT
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture
def model():
    return randomize(PerViT(TINY_ARCH, img_size=28, in_channels=1, drop_path_rate=0.5, drop_rate=0.5)).train()


def test_statistics_are_the_mean_over_the_batches(model):
    """Of the first layer, against the convolution's own outputs; momentum, modes and weights stay."""
    batches = [(torch.randn(4, 1, 28, 28), None), (3 + torch.randn(4, 1, 28, 28), None)]
    weights = {name: value.clone() for name, value in model.named_parameters()}
    norm = model.stem.layers[0].norm
    assert recalibrate(model, batches) == 2
    with torch.no_grad():
        outputs = [model.stem.layers[0].conv(images) for images, _ in batches]
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in outputs]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var((0, 2, 3)) for x in outputs]).mean(0))
    assert norm.momentum == 0.1 and all(module.training for module in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())


def test_it_stops_when_enough_images_are_seen(model):
    batches = iter([(torch.randn(4, 1, 28, 28), None)] * 3)
    recalibrate(model, batches, num_images=5)
    assert len(list(batches)) == 1


def test_mistakes(model):
    with pytest.raises(UserError, match='num_images must be a positive number'):
        recalibrate(model, [], 0)
    with pytest.raises(UserError, match='batches is empty'):
        recalibrate(model, [])
    assert all(m.momentum == 0.1 for m in model.modules() if hasattr(m, 'momentum'))
