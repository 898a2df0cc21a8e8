"""Dropped and shuffled patches, counted one by one."""
import pytest
import torch
from conftest import TINY_ARCH

from pervit_mm.evaluation.occlusion import drop_patches, received_attention, shuffle_patches
from pervit_mm.models import PerViT

pytestmark = pytest.mark.usefixtures('one_thread')


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tiles_of(image, h, w):
    """Tiles ``(C, h, w)`` of an image ``(C, H, W)``, row by row."""
    return [image[:, r:r + h, c:c + w] for r in range(0, image.shape[1], h) for c in range(0, image.shape[2], w)]


@pytest.mark.parametrize('i', range(11))
@pytest.mark.parametrize('order', ['random', 'salient', 'non-salient'])
def test_exactly_k_patches_are_dropped(i, order):
    images = 1 + 254 * torch.rand(4, 2, 28, 21)
    dropped, removed = drop_patches(images, i / 10, (7, 7), order, saliency=torch.rand(4, 7, 7), generator=seeded())
    k = i * 49 // 10
    for image, result in zip(images, dropped):
        pairs = list(zip(tiles_of(image, 4, 3), tiles_of(result, 4, 3)))
        gone = [bool((after == 0).all()) for _, after in pairs]
        assert sum(gone) == k
        assert all(lost or torch.equal(before, after) for lost, (before, after) in zip(gone, pairs))
    torch.testing.assert_close(removed, torch.full((4, ), k / 49))  # all pixels are non-zero here


@pytest.mark.parametrize('fraction, tokens', [(0.29, 100), (0.57, 100), (0.07, 100), (0.3, 10)])
def test_a_count_is_not_one_short_by_rounding(fraction, tokens):
    images = torch.ones(1, 1, tokens, 1)
    dropped, _ = drop_patches(images, fraction, (tokens, 1))
    assert int((dropped == 0).sum()) == round(fraction * tokens)


def test_saliency_orders_the_patches():
    images = torch.ones(2, 1, 4, 4)
    saliency = torch.tensor([[[4., 1.], [2., 3.]], [[1., 2.], [3., 4.]]])
    first, _ = drop_patches(images, 0.25, (2, 2), 'salient', saliency=saliency)
    last, _ = drop_patches(images, 0.5, (2, 2), 'non-salient', saliency=saliency)
    assert first[:, 0, ::2, ::2].tolist() == [[[0, 1], [1, 1]], [[1, 1], [1, 0]]]
    assert last[:, 0, ::2, ::2].tolist() == [[[1, 0], [0, 1]], [[0, 0], [1, 1]]]


def test_the_share_counts_non_zero_pixels():
    image = torch.zeros(2, 2, 4, 4)
    image[0, 1, 0, :3] = 9  # three pixels of the first row, in one of two channels; the second image is black
    saliency = torch.tensor([[3., 2.], [1., 0.]]).expand(2, 2, 2)
    _, removed = drop_patches(image, 0.25, (2, 2), 'salient', saliency=saliency)
    torch.testing.assert_close(removed, torch.tensor([2 / 3, 0.]))


def test_fills():
    images = 1 + 254 * torch.rand(2, 3, 8, 8)
    mean, _ = drop_patches(images, 1.0, (4, 4), fill='mean')
    torch.testing.assert_close(mean, images.mean((2, 3), keepdim=True).expand_as(images))
    noise, _ = drop_patches(images, 1.0, (4, 4), fill='noise', generator=seeded())
    assert 0 <= noise.min() < 20 and 235 < noise.max() <= 255 and len(noise.unique()) > 350
    part, _ = drop_patches(images, 0.5, (4, 4), fill='noise', generator=seeded())
    assert int((part != images).any(1).sum()) == 2 * 8 * 4


def test_random_drops_repeat_by_seed_differ_by_image_and_are_nested():
    images = torch.ones(2, 1, 14, 14)
    half = drop_patches(images, 0.5, (14, 14), generator=seeded())[0]
    assert torch.equal(half, drop_patches(images, 0.5, (14, 14), generator=seeded())[0])
    assert not torch.equal(half, drop_patches(images, 0.5, (14, 14), generator=seeded(1))[0])
    assert not torch.equal(half[0], half[1])
    more = drop_patches(images, 0.7, (14, 14), generator=seeded())[0]
    assert (more <= half).all()


@pytest.mark.parametrize('grid, h, w', [(2, 14, 7), (7, 4, 2)])
def test_shuffling_keeps_the_tiles_and_differs_by_image(grid, h, w):
    image = torch.rand(2, 28, 14)
    shuffled = shuffle_patches(image.expand(3, -1, -1, -1), grid, seeded())
    before = sorted(tile.flatten().tolist() for tile in tiles_of(image, h, w))
    for result in shuffled:
        assert sorted(tile.flatten().tolist() for tile in tiles_of(result, h, w)) == before
    assert len({tuple(result.flatten().tolist()) for result in shuffled}) > 1
    assert torch.equal(shuffled, shuffle_patches(image.expand(3, -1, -1, -1), grid, seeded()))


def test_one_tile_is_the_image():
    image = torch.rand(2, 3, 9, 6)
    assert torch.equal(shuffle_patches(image, 1), image)


def test_received_attention_is_the_mean_column_of_the_last_block():
    from pervit_mm.analysis.capture import capture
    model = PerViT(TINY_ARCH, img_size=28).eval()
    model.init_weights()
    inputs = torch.rand(3, 3, 28, 28)
    with torch.no_grad(), capture(model) as record:
        model(inputs)
    attention = record.blocks[-1].attention
    expected = [[sum(attention[b, head, q, k].item() for head in range(2) for q in range(49)) / 98 for k in range(49)]
                for b in range(3)]
    saliency = received_attention(model, inputs, batch_size=2)
    assert saliency.shape == (3, 7, 7)
    torch.testing.assert_close(saliency.flatten(1), torch.tensor(expected))
    torch.testing.assert_close(saliency.sum((1, 2)), torch.ones(3))


def test_a_model_without_tokens_is_told():
    from mmpretrain.models import ResNet
    with pytest.raises(ValueError, match='attention between tokens.*ResNet: name a model.*--saliency-from'):
        received_attention(ResNet(18), torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize('kwargs, message', [
    (dict(fraction=1.1), 'fraction must be a share of the patches from 0 to 1, got 1.1'),
    (dict(fraction='half'), "fraction must be .* got 'half'"),
    (dict(order='best'), "order must be one of random, salient, non-salient, got 'best'"),
    (dict(fill='gray'), "fill must be one of zero, mean, noise, got 'gray'"),
    (dict(grid=(3, 4)), r'grid must divide .* got \(3, 4\) for 8 x 8 pixels'),
    (dict(grid=4), 'grid must divide .* got 4 for 8 x 8 pixels'),
    (dict(grid=(0, 4)), r'grid must divide .* got \(0, 4\)'),
    (dict(order='salient'), r"saliency must be a map of shape \(2, 4, 4\) for order='salient', got None"),
    (dict(order='salient', saliency=torch.ones(2, 2, 2)), r'saliency must .* got \(2, 2, 2\)'),
])
def test_wrong_arguments_are_told(kwargs, message):
    with pytest.raises(ValueError, match=message):
        drop_patches(torch.ones(2, 1, 8, 8), **dict(dict(fraction=0.5, grid=(4, 4)), **kwargs))


def test_a_grid_that_does_not_divide_is_told():
    with pytest.raises(ValueError, match=r'grid must divide .* got \(3, 3\) for 8 x 8'):
        shuffle_patches(torch.ones(1, 1, 8, 8), 3)
