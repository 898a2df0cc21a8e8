"""The accuracy of single tokens, place by place."""
import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.registry import MODELS, DefaultScope

from pervit_mm.analysis.logit_cam import logit_cam
from pervit_mm.evaluation.single_tokens import SingleTokens, single_token_accuracy
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture
def model():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return randomize(MODELS.build(dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='PerViT', arch=TINY_ARCH, img_size=28, drop_rate=0.5),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=24)))).train()


def test_accuracy_is_counted_at_each_place(model):
    images, labels = torch.randn(10, 3, 28, 20), torch.randint(0, 3, (10, ))
    result = single_token_accuracy(model, [(images[:6], labels[:6]), (images[6:], labels[6:])])
    assert model.training
    model.eval()
    with torch.no_grad():
        cam, logits = logit_cam(model, images), model(images)
    assert result.by_place.shape == (7, 5)
    for row in range(7):
        for col in range(5):
            right = sum(cam[i, :, row, col].argmax() == labels[i] for i in range(10))
            assert result.by_place[row, col] == pytest.approx(10 * int(right))
    assert result.all_tokens == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
    assert result.by_place.unique().numel() > 1


def test_mean_and_max_are_over_places():
    result = SingleTokens(torch.tensor([[50., 60.], [80., 90.]]), 95.)
    assert result.mean == pytest.approx(70) and result.max == 90


def test_mistakes_are_told(model):
    images, labels = torch.randn(2, 3, 28, 28), torch.tensor([0, 1])
    for batches, message in (
            ([], 'batches is empty'), ([(images, None)], 'batches must have labels'),
            ([(images, labels), (images[..., :20], labels)], r'one grid of tokens, got \(7, 7\) and then \(7, 5\)')):
        with pytest.raises(UserError, match=message):
            single_token_accuracy(model, batches)
