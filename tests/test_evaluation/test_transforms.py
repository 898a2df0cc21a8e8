"""The transforms do what the functions on batches do."""
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

import pervit_mm.evaluation.transforms  # noqa: F401  registers them
from pervit_mm.analysis.frequency import high_pass, low_pass
from pervit_mm.evaluation.corruptions import corrupt
from pervit_mm.evaluation.occlusion import drop_patches
from pervit_mm.utils.errors import UserError


def build(**cfg):
    """As a pipeline of MMPretrain builds it."""
    from mmpretrain.registry import TRANSFORMS
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return TRANSFORMS.build(cfg)


@pytest.fixture
def image():
    return np.random.randint(1, 256, (12, 8, 3), dtype=np.uint8)


def batch(image):
    return torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]


@pytest.mark.parametrize('cfg', [
    dict(type='PerViTPatchDrop', fraction=0.5, grid=(6, 4)),
    dict(type='PerViTPatchDrop', fraction=0.5, grid=(6, 4), fill='noise'),
    dict(type='PerViTPatchShuffle', grid=4),
    dict(type='PerViTCorruption', name='shot_noise', strength=3),
])
def test_what_is_drawn_goes_by_seed_and_sample_alone(cfg, image):
    transform = build(**cfg)
    first = transform(dict(img=image.copy(), sample_idx=3, kept=1))
    assert first['kept'] == 1 and first['img'].dtype == np.uint8 and first['img'].shape == image.shape
    assert not np.array_equal(first['img'], image)
    np.random.rand()
    torch.rand(1)
    assert np.array_equal(transform(dict(img=image, sample_idx=3))['img'], first['img'])
    assert not np.array_equal(transform(dict(img=image, sample_idx=4))['img'], first['img'])
    assert not np.array_equal(build(**cfg, seed=1)(dict(img=image, sample_idx=3))['img'], first['img'])


def test_salient_patches_are_dropped(image):
    saliency = np.arange(24.).reshape(6, 4)
    changed = build(type='PerViTPatchDrop', fraction=0.5, grid=(6, 4), order='salient')(
        dict(img=image, saliency=saliency))['img']
    expected, _ = drop_patches(batch(image), 0.5, (6, 4), 'salient', saliency=torch.from_numpy(saliency)[None])
    assert np.array_equal(changed, expected[0].permute(1, 2, 0).byte().numpy())
    assert np.array_equal(changed[:6], image[:6]) and not changed[6:].any()
    with pytest.raises(ValueError, match='saliency must be a map'):
        build(type='PerViTPatchDrop', fraction=0.5, grid=(6, 4), order='salient')(dict(img=image))


def test_shuffling_moves_whole_tiles(image):
    changed = build(type='PerViTPatchShuffle', grid=2)(dict(img=image.copy()))['img']
    tiles = [[picture[r:r + 6, c:c + 4].tobytes() for r in (0, 6) for c in (0, 4)] for picture in (image, changed)]
    assert sorted(tiles[0]) == sorted(tiles[1])


@pytest.mark.parametrize('name, function', [('PerViTLowPass', low_pass), ('PerViTHighPass', high_pass)])
def test_filters_are_neither_rounded_nor_clipped(name, function, image):
    image[:] = 0
    image[6, 4] = 255  # a point, around which the filter rings
    changed = build(type=name, radius=2)(dict(img=image))['img']
    assert changed.dtype == np.float32 and changed.flags.c_contiguous and (changed.min() < 0 or changed.max() > 255)
    np.testing.assert_array_equal(changed, function(batch(image), 2)[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize('dtype, precision', [(np.uint8, 0.5), (np.float32, 0)])
def test_a_corruption_keeps_the_type(dtype, precision, image):
    changed = build(type='PerViTCorruption', name='contrast', strength=2)(dict(img=image.astype(dtype)))['img']
    expected = corrupt(batch(image), 'contrast', 2)[0].permute(1, 2, 0).numpy()
    assert changed.dtype == dtype
    np.testing.assert_allclose(changed, expected, atol=precision + 1e-4)


def test_gray_images_without_an_axis_of_channels_work_in_a_pipeline():
    """MMPretrain gives Fashion-MNIST as (h, w)."""
    gray = np.random.randint(0, 256, (8, 8), dtype=np.uint8)
    for cfg in (dict(type='PerViTPatchDrop', fraction=0.5, grid=(4, 4)), dict(type='PerViTLowPass', radius=2),
                dict(type='PerViTCorruption', name='jpeg_compression', strength=1)):
        results = build(**cfg)(dict(img=gray, gt_label=1))
        assert results['img'].shape == (8, 8)
        assert build(type='PackInputs')(results)['inputs'].shape == (1, 8, 8)


@pytest.mark.parametrize('cfg, message', [
    (dict(type='PerViTPatchDrop', fraction=2, grid=(2, 2)), 'fraction must be'),
    (dict(type='PerViTPatchDrop', fraction=0.5, grid=(2, 2), seed=-1), 'seed must be a whole number .* got -1'),
    (dict(type='PerViTPatchShuffle', grid=2, seed=0.5), 'seed must be .* got 0.5'),
    (dict(type='PerViTLowPass', radius=-1), 'radius must be'),
    (dict(type='PerViTHighPass', radius=None), 'radius must be'),
    (dict(type='PerViTCorruption', name='snow', strength=1), 'name must be one of'),
])
def test_wrong_arguments_are_told_when_it_is_built(cfg, message):
    with pytest.raises(ValueError, match=message):
        build(**cfg)


def test_saliency_comes_from_a_file_by_the_number_of_the_image(tmp_path):
    """Image 1 keeps its least salient quarter."""
    maps = np.array([[[1., 0.], [0., 0.]], [[4., 3.], [1., 2.]]])
    np.save(tmp_path / 'saliency.npy', maps)
    load = build(type='PerViTLoadSaliency', file=str(tmp_path / 'saliency.npy'))
    drop = build(type='PerViTPatchDrop', fraction=0.75, grid=(2, 2), order='salient')
    changed = drop(load(dict(img=np.full((4, 4, 1), 9, np.uint8), sample_idx=1)))['img'][..., 0]
    assert (changed[2:, :2] == 9).all() and changed.sum() == 4 * 9
    with pytest.raises(UserError, match='holds 2 maps, and the image has the number 2'):
        load(dict(sample_idx=2))
    with pytest.raises(UserError, match="PerViTLoadSaliency cannot be read"):
        build(type='PerViTLoadSaliency', file=str(tmp_path / 'nothing.npy'))
