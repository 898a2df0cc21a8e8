"""A model with its images, against the test loader and the data preprocessor of MMEngine's own runner."""
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import Runner
from small_classifiers import KINDS, SIDE, write_world

from pervit_mm.apis.subject import Images, Subject, open_subject
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')

CONFIGS = Path(__file__).parents[2] / 'configs'
NANO = 'pervit_nano_fashion-mnist'


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp('world'), KINDS)


def of(world, kind, **changes):
    """The subject of a kind, with top-level keys of its config replaced."""
    if changes:
        text = (world / f'{kind}.py').read_text() + ''.join(f'{key} = {value}\n' for key, value in changes.items())
        (world / f'{kind}_changed.py').write_text(text)
        return open_subject(str(world / f'{kind}_changed.py'), str(world / f'{kind}.pth'), 'cpu')
    return open_subject(str(world / f'{kind}.py'), str(world / f'{kind}.pth'), 'cpu')


def runner_of(cfg, folder):
    """A runner as MMEngine builds it from a config."""
    cfg = Config(dict(model=cfg.model, data_preprocessor=cfg.get('data_preprocessor'), default_scope=cfg.default_scope,
                      work_dir=str(folder), experiment_name=f'{folder.name}', log_level='ERROR'))
    logging.getLogger('mmengine').setLevel(logging.WARNING)
    return Runner.from_cfg(cfg)


@pytest.mark.parametrize('kind', ['gray', 'pervit'])
def test_normalization_is_that_of_the_runner(world, tmp_path, kind):
    subject = of(world, kind)
    channels = 1 if kind == 'gray' else 3
    pixels = 255 * torch.rand(2, channels, SIDE, SIDE)
    model = runner_of(subject.cfg, tmp_path).model
    assert model.data_preprocessor.to_rgb == (kind != 'gray')
    for batch in (pixels, list(pixels)):
        expected = model.data_preprocessor(dict(inputs=batch), False)['inputs']
        torch.testing.assert_close(subject.normalize(pixels), expected, atol=0, rtol=0)
    if kind == 'pervit':  # by hand: blue comes first in pixels, and red in the input
        torch.testing.assert_close(subject.normalize(pixels)[:, 0], (pixels[:, 2] - 100) / 50)


def test_the_models_own_preprocessor_goes_ahead_of_that_of_the_config(world, tmp_path):
    subject = of(world, 'pervit')
    subject.cfg.model.data_preprocessor = dict(
        type='ClsDataPreprocessor', mean=[1., 2., 3.], std=[4., 5., 6.], to_rgb=False)
    pixels = 255 * torch.rand(2, 3, SIDE, SIDE)
    expected = runner_of(subject.cfg, tmp_path).model.data_preprocessor(dict(inputs=pixels), False)['inputs']
    torch.testing.assert_close(subject.normalize(pixels), expected, atol=0, rtol=0)
    subject.cfg.model.data_preprocessor = dict(type='ClsDataPreprocessor', to_rgb=True)  # no mean
    torch.testing.assert_close(subject.normalize(pixels), pixels.flip(1), atol=0, rtol=0)


@pytest.mark.parametrize('scope, name', [('mmdet', 'detection/mask-rcnn_pervit-nano_fashion-scenes'),
                                         ('mmseg', 'segmentation/pervit-nano_fpn_fashion-scenes')])
def test_detectors_and_segmentors_are_normalized_by_their_own_preprocessors(scope, name):
    pytest.importorskip(scope)
    cfg = Config.fromfile(str(CONFIGS / f'{name}.py'))
    pixels = 255 * torch.rand(2, 3, 64, 64)  # a multiple of what they pad to
    with DefaultScope.overwrite_default_scope(scope):
        preprocessor = MODELS.build(cfg.model.data_preprocessor)
    samples = [_sample(scope) for _ in pixels]
    expected = preprocessor(dict(inputs=list(pixels), data_samples=samples), False)['inputs']
    subject = Subject('dense', cfg, torch.nn.Identity(), 'cpu')
    torch.testing.assert_close(subject.normalize(pixels), expected, atol=0, rtol=0)
    with pytest.raises(UserError, match=f"model='dense' is of {scope} and no classifier, so it has no score"):
        subject.logits(pixels)


def _sample(scope):
    if scope == 'mmdet':
        from mmdet.structures import DetDataSample as Sample
    else:
        from mmseg.structures import SegDataSample as Sample
    return Sample(metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64)))


def test_logits_are_those_of_the_runners_model(world, tmp_path):
    subject = of(world, 'pervit')
    batch = subject.load(count=3)
    model = runner_of(subject.cfg, tmp_path).model
    model.load_state_dict(torch.load(world / 'pervit.pth')['state_dict'])
    model.eval()
    data = dict(inputs=list(batch.pixels.byte()), data_samples=None)
    with torch.no_grad():
        expected = model(model.data_preprocessor(data, False)['inputs'], mode='tensor')
        torch.testing.assert_close(subject.logits(subject.normalize(batch.pixels)), expected)
    assert not subject.model.training and not subject.backbone.training
    assert subject.name == 'pervit' and subject.classes == ('a', 'b', 'c') and subject.is_classifier


def test_test_images_are_taken_evenly_with_their_labels(world):
    subject = of(world, 'pervit')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        dataset = DATASETS.build(subject.cfg.test_dataloader.dataset)
    for count, numbers in ((1, [0]), (2, [0, 5]), (3, [0, 2, 5]), (6, range(6)), (100, range(6))):
        batch = subject.load(count=count)
        assert batch.names == [f'{type(dataset).__name__} {i}' for i in numbers] and batch.unreadable == []
        assert batch.labels.tolist() == [dataset[i]['data_samples'].gt_label.item() for i in numbers]
        torch.testing.assert_close(batch.pixels, torch.stack([dataset[i]['inputs'] for i in numbers]).float())
    assert sorted(batch.labels.tolist()) == [0, 0, 1, 1, 2, 2]


def test_files_go_through_the_same_pipeline_and_have_no_labels(world):
    subject = of(world, 'pervit')
    batch = subject.load(sorted((world / 'data').rglob('*.png')))
    torch.testing.assert_close(batch.pixels, subject.load().pixels)
    assert batch.labels is None and batch.names == ['0.png', '3.png', '1.png', '4.png', '2.png', '5.png']


def test_rgb_is_for_pictures(world):
    pixels = torch.tensor([[[[0.4]], [[100.6]], [[300.]]]])
    np.testing.assert_array_equal(Images(pixels, None, [], []).rgb(), [[[[255, 101, 0]]]])
    np.testing.assert_array_equal(Images(pixels[:, 1:2], None, [], []).rgb(), [[[[101, 101, 101]]]])


def test_the_middle_of_images_of_several_sizes_is_kept(world, tmp_path):
    raw = dict(dataset=dict(pipeline=[dict(type='PackInputs')]))
    subject = of(world, 'pervit', test_dataloader=raw)
    rng, pixels = np.random.default_rng(0), {}
    for name, size in dict(a=(20, 30), b=(16, 34), c=(24, 18)).items():
        pixels[name] = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f'{name}.png'), pixels[name])
    batch = subject.load([tmp_path / f'{name}.png' for name in pixels])
    middles = [pixels['a'][2:18, 6:24], pixels['b'][:, 8:26], pixels['c'][4:20]]
    np.testing.assert_array_equal(batch.pixels.permute(0, 2, 3, 1).numpy(), middles)
    np.testing.assert_array_equal(batch.rgb(), np.stack(middles)[..., ::-1])


def test_color_files_become_gray_for_a_model_of_gray_images(world):
    subject, files = of(world, 'gray'), sorted((world / 'data' / 'a').iterdir())
    batch = subject.load(files)
    assert batch.pixels.shape == (2, 1, SIDE, SIDE)
    weights = torch.tensor([0.114, 0.587, 0.299])[:, None, None]
    color = of(world, 'pervit').load(files).pixels
    # torchvision cuts off what follows the point.
    assert ((weights * color).sum(1, keepdim=True) - batch.pixels).abs().max() < 1.1
    assert subject.logits(subject.normalize(batch.pixels)).shape == (2, 3)


def test_a_name_of_the_zoo_has_config_weights_and_classes(world):
    subject = open_subject(NANO, device='cpu')
    assert subject.name == NANO and subject.classes[9] == 'Ankle boot' and len(subject.classes) == 10
    batch = subject.load(sorted((world / 'data' / 'a').iterdir()))
    # Its pipeline makes gray by its own weights, in sixteenths of blue, green and red.
    image = cv2.imread(str(world / 'data' / 'a' / '0.png')).astype(np.float32)
    gray = (image @ np.array([2, 9, 5], np.float32) / 16)
    assert batch.pixels.shape == (2, 1, 28, 28)
    assert batch.pixels[0].mean().item() == pytest.approx(gray.mean(), abs=3)


def test_files_that_cannot_be_read_are_named_and_the_others_done(world, tmp_path):
    subject = of(world, 'pervit')
    (tmp_path / 'broken.png').write_bytes(b'no image')
    good = world / 'data' / 'a' / '0.png'
    (tmp_path / 'half.png').write_bytes(good.read_bytes()[:300])
    batch = subject.load([tmp_path / 'broken.png', good, tmp_path / 'half.png', tmp_path / 'none.png'])
    assert batch.names == ['0.png'] and len(batch.pixels) == 1
    assert all(name in line for name, line in zip(('broken', 'half', 'none'), batch.unreadable, strict=True))
    assert all('cannot be read' in line for line in batch.unreadable)
    with pytest.raises(UserError, match='images: none of 2 can be read: .*broken.png'):
        subject.load([tmp_path / 'broken.png', tmp_path / 'none.png'])


def test_mistakes_are_named(world, tmp_path):
    config, weights = str(world / 'pervit.py'), str(world / 'pervit.pth')
    for count in (0, -1, 2.):
        with pytest.raises(UserError, match=f'count .* must be a positive number of images, got {count}'):
            of(world, 'pervit').load(count=count)
    with pytest.raises(UserError, match='is a config, which has no weights: give weights'):
        open_subject(config)
    with pytest.raises(UserError, match="model='nothing' is neither a config nor one of"):
        open_subject('nothing', weights)
    with pytest.raises(UserError, match='checkpoint is not of this config: head.fc.weight is'):
        open_subject(config, str(world / 'vit.pth'), 'cpu')
    with pytest.raises(UserError, match='checkpoint is not of this config: .*position.* is not in it'):
        open_subject(config, str(world / 'bare.pth'), 'cpu')
    with pytest.raises(UserError, match="weights .*nothing.pth"):
        open_subject(config, 'nothing.pth', 'cpu')
    (tmp_path / 'broken.pth').write_bytes(b'no checkpoint')
    with pytest.raises(UserError, match='broken.pth'):
        open_subject(config, str(tmp_path / 'broken.pth'), 'cpu')
    with pytest.raises(UserError, match=r"device='gpu' \(--device\) is none of PyTorch"):
        open_subject(config, weights, 'gpu')


def test_a_config_without_test_images_is_told(world, tmp_path):
    files = [world / 'data' / 'a' / '0.png']
    subject = of(world, 'pervit', test_dataloader=None)
    with pytest.raises(UserError, match='has no test_dataloader: name image files'):
        subject.load()
    with pytest.raises(UserError, match='has no test_dataloader, so it does not say how images are prepared'):
        subject.load(files)
    subject = of(world, 'pervit', test_dataloader=dict(dataset=dict(
        type='CustomDataset', data_root=str(tmp_path / 'none'), pipeline=[dict(type='PackInputs')])))
    with pytest.raises(UserError, match='none'):
        subject.load()
    subject = of(world, 'pervit', test_dataloader=dict(dataset=dict(
        type='CustomDataset', pipeline=[dict(type='PackInputs')])))
    with pytest.raises(UserError, match='the test set of the config cannot be read .*data_root'):
        subject.load()
    assert subject.load(files).names == ['0.png']
