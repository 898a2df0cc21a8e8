"""Features are the means of what the blocks give, and the file that keeps them is never stale."""
import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from pervit_mm.analysis.capture import capture
from pervit_mm.evaluation.features import cached_features, collect_features, evaluating, weights_digest
from pervit_mm.models import PerViT
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture
def backbone():
    return randomize(PerViT(TINY_ARCH, img_size=28, in_channels=1, drop_rate=0.5, drop_path_rate=0.5)).train()


@pytest.fixture
def batches():
    images = torch.randn(7, 1, 28, 28)
    return [(images[:4], torch.tensor([0, 1, 2, 0])), (images[4:], torch.tensor([2, 1, 1]))]


class Counted:
    """Batches that count how often they are gone through."""

    def __init__(self, batches):
        self.batches, self.uses = batches, 0

    def __iter__(self):
        self.uses += 1
        return iter(self.batches)


def test_features_are_the_means_over_tokens_in_eval_mode(backbone, batches):
    backbone.blocks[0].eval()
    modes = [module.training for module in backbone.modules()]
    features = collect_features(backbone, batches)
    assert [module.training for module in backbone.modules()] == modes and backbone.training
    backbone.eval()
    images = torch.cat([inputs for inputs, _ in batches])
    with torch.no_grad(), capture(backbone, attention=False, features=True) as record:
        output, = backbone(images)
    assert features.output.dtype == torch.float32
    torch.testing.assert_close(features.output, output)
    assert sorted(features.blocks) == [0, 1, 2]
    for block in record.blocks:
        torch.testing.assert_close(features.blocks[block.index], block.output.mean(1))
    assert features.labels.tolist() == [0, 1, 2, 0, 2, 1, 1]
    torch.testing.assert_close(features.joined([2, 0]), torch.cat((features.blocks[2], features.blocks[0]), 1))
    assert set(collect_features(backbone, batches, [1]).blocks) == {1}
    with pytest.raises(UserError, match=r'blocks must name .*\[0, 1, 2\], got \[3\]'):
        features.joined([3])


@pytest.mark.parametrize('out_type', ['featmap', 'raw'])
def test_every_kind_of_output_becomes_one_vector(batches, out_type):
    model = randomize(PerViT(TINY_ARCH, img_size=28, in_channels=1))
    expected = collect_features(model, batches, ()).output
    model.out_type = out_type
    torch.testing.assert_close(collect_features(model, batches, ()).output, expected)


def test_any_backbone_gives_its_output_and_pixels_are_a_baseline(batches):
    features = collect_features(nn.Flatten(), [(images, None) for images, _ in batches], ())
    torch.testing.assert_close(features.output, torch.cat([images.flatten(1) for images, _ in batches]))
    assert features.blocks == {} and features.labels is None


def test_the_batches_of_a_data_loader_are_prepared_by_the_model():
    pytest.importorskip('mmpretrain')
    from mmpretrain.structures import DataSample
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(
            type='mmpretrain.ImageClassifier', data_preprocessor=dict(mean=[10.], std=[5.]),
            backbone=dict(type='PerViT', arch=TINY_ARCH, img_size=28, in_channels=1),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=24)))
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    loaded = [dict(inputs=images, data_samples=[DataSample().set_gt_label(2), DataSample().set_gt_label(0)])]
    features = collect_features(model, loaded)
    direct = collect_features(model.backbone, [((images - 10.) / 5, torch.tensor([2, 0]))])
    torch.testing.assert_close(features.output, direct.output)
    assert features.labels.tolist() == [2, 0]
    with pytest.raises(UserError, match='PerViT has no data_preprocessor'):
        collect_features(model.backbone, loaded)
    digest = weights_digest(model)
    model.data_preprocessor.mean += 1
    assert weights_digest(model) != digest


def test_a_file_is_used_as_long_as_nothing_differs(backbone, batches, tmp_path):
    counted, path = Counted(batches), tmp_path / 'features.pth'
    first = cached_features(path, 'test set', backbone, counted, (0, 2))
    again = cached_features(path, 'test set', backbone, counted, (2, 0))
    assert counted.uses == 1
    assert torch.equal(first.output, again.output) and torch.equal(first.labels, again.labels)
    assert set(again.blocks) == {0, 2} and torch.equal(first.blocks[2], again.blocks[2])
    cached_features(path, 'training set', backbone, counted, (0, 2))
    assert counted.uses == 2
    assert set(cached_features(path, 'training set', backbone, counted).blocks) == {0, 1, 2}
    assert counted.uses == 3
    with torch.no_grad():
        backbone.blocks[1].norm1.weight[0] += 1e-6
    cached_features(path, 'training set', backbone, counted)
    assert counted.uses == 4
    next(backbone.buffers()).add_(1)  # a running statistic of BatchNorm
    changed = cached_features(path, 'training set', backbone, counted)
    assert counted.uses == 5
    torch.testing.assert_close(changed.output, collect_features(backbone, batches, ()).output)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_something_else_is_left_alone(backbone, batches, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(backbone.state_dict(), path)
    before = path.read_bytes()
    with pytest.raises(UserError, match='weights.pth. holds no features and is left as it is'):
        cached_features(path, '', backbone, batches)
    assert path.read_bytes() == before
    with pytest.raises(UserError, match='cannot be written'):
        cached_features(tmp_path / 'missing' / 'file.pth', '', backbone, batches)
    with pytest.raises(UserError, match='config must be text, got dict'):
        cached_features(tmp_path / 'new.pth', {}, backbone, batches)


def test_modes_come_back_after_an_exception(backbone):
    with pytest.raises(KeyError), evaluating(backbone):
        assert not backbone.training and not torch.is_grad_enabled()
        raise KeyError
    assert backbone.training and backbone.blocks[1].training and torch.is_grad_enabled()


def test_mistakes_are_told(backbone, batches):
    images, labels = batches[0]
    for bad, blocks, message in (
            ([], None, 'batches is empty'),
            (batches, [0, 7], r'blocks names \[7\]'),
            ([(images, labels), (images, None)], None, 'some batches have labels'),
            ([images], None, 'batches must hold pairs .* got Tensor'),
            ([(images, labels[:2])], None, r'one class for each of the 4 images, got the shape \(2,\)')):
        with pytest.raises(UserError, match=message):
            collect_features(backbone, bad, blocks)
    with pytest.raises(UserError, match=r'last output of the backbone must be .* got \(4,\)'):
        collect_features(nn.Flatten(0), [(torch.ones(4), None)], ())
