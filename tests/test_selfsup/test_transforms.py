"""Views say truly where they come from, the batch reaches the model, and gray jitter is torchvision's."""
import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from mmengine.dataset import default_collate
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope

from pervit_mm.selfsup.transforms import GrayJitter, MultiCropWithBoxes, jitter
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')
FLIP = dict(type='RandomFlip', prob=0.5)


def fill(value):
    """A transform that makes every pixel this value."""
    return lambda results: dict(results, img=np.full_like(results['img'], value))


@pytest.mark.parametrize('channels', [(), (1, ), (3, )])
def test_each_view_is_what_stands_in_its_box(channels):
    """Every pixel has a value of its own, and the nearest one is looked up by its definition."""
    image = np.arange(20 * 30 * np.prod(channels, dtype=int), dtype=np.float32).reshape(20, 30, *channels)
    crops = MultiCropWithBoxes(8, num_global=10, local_size=5, num_local=20, interpolation='nearest',
                               global_transforms=[FLIP], local_transforms=[FLIP])
    results = crops(dict(img=image, kept=1))
    assert results['kept'] == 1 and len(results['img']) == 30
    assert results['boxes'].dtype == np.float32 and results['flipped'].dtype == bool
    assert 0 < results['flipped'].sum() < 30
    for number, (view, (x1, y1, x2, y2), flipped) in enumerate(
            zip(results['img'], results['boxes'].astype(int), results['flipped'])):
        size = 8 if number < 10 else 5
        assert view.shape == (size, size, *channels)
        assert 0 <= x1 < x2 <= 30 and 0 <= y1 < y2 <= 20
        rows = [y1 + i * (y2 - y1) // size for i in range(size)]
        columns = [x1 + j * (x2 - x1) // size for j in range(size)]
        expected = image[np.ix_(rows, columns)]
        assert np.array_equal(view, expected[:, ::-1] if flipped else expected)


def test_areas_lie_within_the_scales():
    """Up to rounding to whole pixels, and over the whole range."""
    crops = MultiCropWithBoxes(8, (0.4, 0.8), 200, 8, (0.1, 0.3), 200)
    x1, y1, x2, y2 = crops(dict(img=np.zeros((100, 100), np.uint8)))['boxes'].T
    shares = (x2 - x1) * (y2 - y1) / 100**2
    for found, low, high in ((shares[:200], 0.4, 0.8), (shares[200:], 0.1, 0.3)):
        assert low - 0.02 < found.min() < low + 0.05 and high - 0.05 < found.max() < high + 0.02
    assert (((x2 - x1) / (y2 - y1)).round(1) >= 0.7).all() and ((x2 - x1) / (y2 - y1)).max() < 1.4


def test_views_overlap_as_much_as_they_must():
    """Global views by twice the least area. Without it some views lie apart."""
    def least(**options):
        crops, found = MultiCropWithBoxes(8, (0.25, 0.5), 2, 8, (0.05, 0.25), 4, **options), []
        for _ in range(100):
            boxes = crops(dict(img=np.zeros((40, 50), np.uint8)))['boxes']
            shared = np.minimum(boxes[:2, None, 2:], boxes[None, :, 2:]) - np.maximum(
                boxes[:2, None, :2], boxes[None, :, :2])
            found.append(shared.clip(0).prod(-1))
        return np.min(found, 0)

    free, bound = least(), least(min_overlap=0.03)
    assert free[0, 1] < 120 and (free[:, 2:] < 60).all()
    assert 120 <= bound[0, 1] < 180 and (bound[:, 2:] >= 60).all() and (bound[:, 2:] < 90).all()
    with pytest.raises(UserError, match='min_overlap=0.6 of MultiCropWithBoxes was not reached in 1000 draws'):
        least(min_overlap=0.6)
    with pytest.raises(UserError, match='min_overlap of MultiCropWithBoxes must be a share .* below 1, got 1'):
        least(min_overlap=1)


def test_each_global_view_has_its_pipeline():
    crops = MultiCropWithBoxes(6, num_global=2, local_size=4, num_local=2,
                               global_transforms=[[fill(1)], [fill(2)]], local_transforms=[fill(3)])
    image = np.zeros((9, 9, 1), np.uint8)
    assert [view.max() for view in crops(dict(img=image))['img']] == [1, 2, 3, 3]
    shared = MultiCropWithBoxes(6, num_global=2, global_transforms=[fill(4)])
    assert [view.max() for view in shared(dict(img=image))['img']] == [4, 4]
    assert image.max() == 0


def test_an_image_that_a_pipeline_gives_up_is_given_up():
    crops = MultiCropWithBoxes(6, global_transforms=[lambda results: None])
    assert crops(dict(img=np.zeros((9, 9), np.uint8))) is None


@pytest.mark.parametrize('shape', [(28, 28), (28, 28, 1)])
def test_the_batch_reaches_the_model_with_its_boxes(shape):
    """Through MMPretrain's packing, MMEngine's collation and the preprocessor, as the docstring says."""
    pytest.importorskip('mmpretrain')
    jitter = dict(type='GrayJitter', brightness=0.4, contrast=0.4)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        crops = TRANSFORMS.build(dict(
            type='MultiCropWithBoxes', global_size=28, local_size=16, num_local=4,
            global_transforms=[[FLIP, jitter], [FLIP, jitter, dict(type='Solarize', thr=128, prob=0.2)]],
            local_transforms=[FLIP, jitter]))
        pack = TRANSFORMS.build(dict(type='PackInputs', algorithm_keys=('boxes', 'flipped'), meta_keys=()))
        preprocess = MODELS.build(dict(type='SelfSupDataPreprocessor', mean=[100], std=[50]))
    made = [crops(dict(img=np.random.randint(0, 256, shape, dtype=np.uint8))) for _ in range(3)]
    data = preprocess(default_collate([pack(one) for one in made]), True)
    assert [tuple(view.shape) for view in data['inputs']] == [(3, 1, 28, 28)] * 2 + [(3, 1, 16, 16)] * 4
    for number, (one, sample) in enumerate(zip(made, data['data_samples'])):
        assert np.array_equal(sample.boxes, one['boxes']) and np.array_equal(sample.flipped, one['flipped'])
        for view, batch in zip(one['img'], data['inputs']):
            pixels = torch.from_numpy(np.ascontiguousarray(view)).float().reshape(batch.shape[1:])
            torch.testing.assert_close(batch[number], (pixels - 100) / 50)


@pytest.mark.parametrize('options, message', [
    (dict(num_global=0), 'num_global and num_local .* both 0'),
    (dict(num_local=-1), 'num_local .* got -1'),
    (dict(global_size=0), 'global_size .* got 0'),
    (dict(local_size=(96, 96)), 'local_size .* got'),
    (dict(global_scale=(0, 1)), 'global_scale .* 0 < low <= high <= 1'),
    (dict(global_scale=0.4), 'global_scale .* got 0.4'),
    (dict(local_scale=(0.4, 0.05)), 'local_scale .* got'),
    (dict(local_scale=(0.4, 1.1)), 'local_scale .* got'),
    (dict(global_transforms=[[FLIP]]), 'one for each of num_global=2 views, got 1 pipelines'),
    (dict(global_transforms=[[FLIP], FLIP]), 'transforms or pipelines, got both'),
    (dict(global_transforms=FLIP), 'global_transforms .* must be a list'),
    (dict(local_transforms=[[FLIP]]), 'local_transforms .* must be one pipeline'),
    (dict(interpolation='cubic'), "interpolation .* got 'cubic'"),
])
def test_mistakes_in_views(options, message):
    with pytest.raises(UserError, match=message):
        MultiCropWithBoxes(**options)


def test_a_flip_that_the_results_cannot_tell_is_refused():
    crops = MultiCropWithBoxes(4, global_transforms=[dict(type='RandomFlip', prob=1.0, direction='vertical')])
    with pytest.raises(UserError, match="direction='horizontal', got 'vertical'"):
        crops(dict(img=np.zeros((8, 8), np.uint8)))


@pytest.mark.parametrize('contrast_first', [False, True])
@pytest.mark.parametrize('brightness, contrast', [(0.7312, 1), (1.6127, 1), (1, 0.4133), (1, 1.7391), (1.3127, 1.4391),
                                                  (0, 1), (1, 0)])
def test_jitter_is_that_of_torchvision(brightness, contrast, contrast_first):
    """Which takes gray images of floats from 0 to 1, and doesn't round."""
    image = np.random.randint(0, 256, (9, 7, 1), dtype=np.uint8)
    steps = [(F.adjust_brightness, brightness), (F.adjust_contrast, contrast)]
    expected = torch.from_numpy(image).permute(2, 0, 1).double() / 255
    for step, factor in steps[::-1] if contrast_first else steps:
        expected = step(expected, factor)
    found = jitter(image, brightness, contrast, contrast_first)
    assert found.dtype == np.uint8 and found.shape == image.shape
    assert np.array_equal(found, (255 * expected).round().byte().permute(1, 2, 0).numpy())


def test_factors_and_probability_are_as_asked():
    """On an image of 100, brightness can be read off, and contrast changes nothing."""
    image = np.full((4, 4), 100, np.uint8)
    found = np.array([GrayJitter(0.4, 0.4)(dict(img=image))['img'][0, 0] for _ in range(1000)], dtype=int)
    assert 60 <= found.min() < 65 and 135 < found.max() <= 140 and abs(found.mean() - 100) < 2
    assert 0.74 < (found != 100).mean() < 0.84
    dark = [GrayJitter(1.5, 0, prob=1)(dict(img=image))['img'].min() for _ in range(200)]
    assert min(dark) < 5 and max(dark) > 240
    assert (image == 100).all()


def test_both_orders_occur(monkeypatch):
    """Clipping makes the order visible."""
    image = np.array([[0, 100], [200, 250]], dtype=np.uint8)
    monkeypatch.setattr(np.random, 'uniform', lambda low, high: 1.5)
    found = {GrayJitter(0.5, 0.5, prob=1)(dict(img=image))['img'].tobytes() for _ in range(40)}
    expected = {jitter(image, 1.5, 1.5, first).tobytes() for first in (False, True)}
    assert len(expected) == 2 and found == expected


def test_mistakes_in_jitter():
    for options in (dict(brightness=-1, contrast=0), dict(brightness=0, contrast=None)):
        with pytest.raises(UserError, match='(brightness|contrast) of GrayJitter must be at least 0, got'):
            GrayJitter(**options)
    with pytest.raises(UserError, match='prob of GrayJitter must be at least 0 and at most 1, got 2'):
        GrayJitter(0.4, 0.4, prob=2)
    for image in (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32)):
        with pytest.raises(UserError, match='must be uint8 of shape'):
            GrayJitter(0.4, 0.4)(dict(img=image))
