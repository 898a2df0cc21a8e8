"""Errors on hidden pixels against loops that follow the definitions."""
import copy
from math import dist

import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from pervit_mm.selfsup.hidden_pixels import HiddenPixelError, copy_nearest_patch, hidden_pixel_error, mean_of
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')


class Echo(nn.Module):
    """A backbone that hands on the visible pixels, with hidden ones at a constant."""

    def __init__(self, guess):
        super().__init__()
        self.guess = guess

    def forward(self, x, mask):
        hidden = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].bool()
        return (x.masked_fill(hidden, self.guess), )


def echo(guess=0.5):
    model = nn.Module()
    model.backbone, model.neck, model.head = Echo(guess), nn.Identity(), nn.Identity()
    return model


def mae(**head):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return randomize(MODELS.build(dict(
            type='mmpretrain.MAE',
            backbone=dict(type='MAEPerViT', arch=TINY_ARCH, img_size=28, in_channels=1),
            neck=dict(type='MAETokenDecoder', in_channels=24, encoder_stride=4, out_channels=1, img_size=28,
                      embed_dims=16, num_layers=1, num_heads=2),
            head=dict(type='MAEPretrainHead', patch_size=4, in_channels=1,
                      loss=dict(type='PixelReconstructionLoss', criterion='L1'), **head))))


@pytest.fixture(scope='module')
def simmim():
    pytest.importorskip('mmpretrain')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(
            type='mmpretrain.SimMIM',
            data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[70.], std=[90.]),
            backbone=dict(type='MaskTokenPerViT', arch=TINY_ARCH, img_size=28, in_channels=1, out_type='featmap',
                          drop_path_rate=0.5),
            neck=dict(type='PixelShuffleDecoder', in_channels=24, encoder_stride=4, out_channels=1),
            head=dict(type='SimMIMHead', patch_size=4, loss=dict(type='PixelReconstructionLoss', criterion='L1',
                                                                 channel=1))))
    return randomize(model)


def masks(count, share=0.6):
    return (torch.rand(count, 7, 7) < share).long()


def nearest_by_definition(image, hidden, side):
    """Fill an image (C, h, w) token by token."""
    filled = image.clone()
    rows, columns = hidden.shape
    for i in range(rows):
        for j in range(columns):
            if not hidden[i, j]:
                continue
            best = None
            for a in range(rows):
                for b in range(columns):
                    if hidden[a, b]:
                        continue
                    centers = [((y + 0.5) * side, (x + 0.5) * side) for y, x in ((i, j), (a, b))]
                    distance = dist(*centers)
                    if best is None or distance < best[0] - 1e-9:  # the first of equally near ones stays
                        best = distance, a, b
            _, a, b = best
            filled[:, i * side:(i + 1) * side, j * side:(j + 1) * side] = image[
                :, a * side:(a + 1) * side, b * side:(b + 1) * side]
    return filled


@pytest.mark.parametrize('share', [0.2, 0.9, 0.])
def test_the_nearest_patch_is_that_of_the_definition(share):
    images, hidden = torch.rand(4, 2, 12, 20), torch.rand(4, 3, 5) < share
    hidden[:, 1, 3] = False
    found, before = copy_nearest_patch(images, hidden), images.clone()
    for image, own, result in zip(images, hidden, found):
        assert torch.equal(result, nearest_by_definition(image, own, 4))
    assert torch.equal(images, before)


def test_of_equally_near_patches_the_first_counts():
    images = torch.arange(9.).reshape(1, 1, 3, 3)
    hidden = torch.zeros(1, 3, 3, dtype=torch.bool)
    hidden[0, 1, 1] = True
    assert copy_nearest_patch(images, hidden)[0, 0, 1, 1] == 1  # of 1, 3, 5 and 7


def test_errors_are_means_over_hidden_pixels_of_all_images():
    """Batches of different sizes and masks of different shares, against one loop over pixels."""
    images, mask, mean_image = torch.randn(5, 2, 28, 28), masks(5), torch.randn(2, 28, 28)
    mask[0], mask[1] = 0, 0
    mask[1, 2, 3] = 1
    found = hidden_pixel_error(echo(0.5), [(images[:2], mask[:2]), (images[2:], mask[2:])], mean_image)
    errors = dict(model=[], mean_image=[], nearest_patch=[])
    for image, own in zip(images, mask):
        copied = nearest_by_definition(image, own, 4)
        for y in range(28):
            for x in range(28):
                if own[y // 4, x // 4]:
                    errors['model'] += (image[:, y, x] - 0.5).abs().tolist()
                    errors['mean_image'] += (image[:, y, x] - mean_image[:, y, x]).abs().tolist()
                    errors['nearest_patch'] += (image[:, y, x] - copied[:, y, x]).abs().tolist()
    for name, values in errors.items():
        assert getattr(found, name) == pytest.approx(sum(values) / len(values), rel=1e-6)
    assert found.images == 5


def test_a_training_loss_of_simmim_is_the_error_of_the_model(simmim):
    """On one batch with masks of equal size, MMPretrain's own loss is the same number."""
    from mmpretrain.structures import DataSample
    pixels, mask = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8), masks(3)
    samples = [DataSample(mask=one) for one in mask]
    simmim.train()
    simmim.backbone.blocks[0].eval()
    modes = [module.training for module in simmim.modules()]
    images = (pixels - 70.) / 90
    found = hidden_pixel_error(simmim, [dict(data_samples=samples, inputs=pixels)], torch.zeros(1, 28, 28))
    assert [module.training for module in simmim.modules()] == modes
    simmim.eval()
    with torch.no_grad():
        loss = simmim.loss(images, samples)['loss'].item()
    assert found.model == pytest.approx(loss, rel=1e-5)
    assert found == hidden_pixel_error(simmim, [(images, mask)], torch.zeros(1, 28, 28))


def test_a_loss_of_mae_is_the_error_of_the_model():
    """On one batch, with the masks that its backbone draws, MMPretrain's own loss is the same number."""
    pytest.importorskip('mmpretrain')
    model, images, drawn = mae(), torch.randn(3, 1, 28, 28), []
    model.backbone.stem.eval()  # the error is measured in eval mode
    draw = model.backbone.draw_mask
    model.backbone.draw_mask = lambda images: drawn.append(draw(images)) or drawn[-1]
    with torch.no_grad():
        loss = model.loss(images, [])['loss'].item()
    found = hidden_pixel_error(model, [(images, drawn[0])], torch.zeros(1, 28, 28))
    assert found.model == pytest.approx(loss, rel=1e-5) and found.mean_image > 0
    with pytest.raises(UserError, match=r'norm_pix=False, got MAE with MAEPretrainHead\(norm_pix=True\)'):
        hidden_pixel_error(mae(norm_pix=True), [(images, drawn[0])], torch.zeros(1, 28, 28))


def test_a_model_in_bfloat16_is_near_the_same_in_float32(simmim):
    batch = torch.randn(2, 1, 28, 28), masks(2)
    exact = hidden_pixel_error(simmim, [batch], torch.zeros(1, 28, 28))
    rounded = hidden_pixel_error(copy.deepcopy(simmim).bfloat16(), [batch], torch.zeros(1, 28, 28))
    assert rounded.model == pytest.approx(exact.model, rel=0.02) and rounded.model != exact.model
    assert (rounded.mean_image, rounded.nearest_patch) == (exact.mean_image, exact.nearest_patch)


def test_the_mean_image_is_that_of_the_images_it_is_made_from(simmim):
    from mmpretrain.structures import DataSample
    pixels = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    loaded = [dict(inputs=part, data_samples=[DataSample() for _ in part]) for part in pixels.split(3)]
    expected = ((pixels - 70.) / 90).mean(0)
    torch.testing.assert_close(mean_of(simmim, loaded), expected)
    torch.testing.assert_close(mean_of(echo(), [((pixels - 70.) / 90, None)]), expected)


def test_perfect_predictors_have_no_error():
    flat = torch.full((2, 1, 28, 28), 0.25)
    assert hidden_pixel_error(echo(0.25), [(flat, masks(2))], flat[0]) == HiddenPixelError(0., 0., 0., 2)


def test_mistakes(simmim):
    from mmpretrain.structures import DataSample
    images, mask, mean_image = torch.rand(2, 1, 28, 28), masks(2), torch.zeros(1, 28, 28)
    bare, two_inputs, unmasked = echo(), echo(), echo()
    del bare.neck
    two_inputs.neck = nn.Bilinear(2, 2, 2)  # as MAE's decoder, which takes the order of the tokens besides
    unmasked.backbone = nn.Identity()
    wide = echo()
    wide.neck = nn.Conv2d(1, 3, 1)
    samples = [DataSample(mask=mask[0]), DataSample()]
    for model, batches, mean, message in (
            (bare, [(images, mask)], mean_image, 'like SimMIM of MMPretrain, and Module has no neck'),
            (two_inputs, [(images, mask)], mean_image, r'backbone\(images, mask\) and neck\(features\), got Module of'),
            (unmasked, [(images, mask)], mean_image, 'got Module of Identity'),
            (wide, [(images, mask)], mean_image, r'predicts \(2, 3, 28, 28\) for images \(2, 1, 28, 28\)'),
            (echo(), [], mean_image, 'batches is empty'),
            (echo(), [images], mean_image, r'pairs \(images, masks\) or dicts of a data loader, got Tensor'),
            (echo(), [(images, None)], mean_image, 'put SimMIMMaskGenerator ahead of PackInputs'),
            (echo(), [dict(inputs=images)], mean_image, 'has no data_preprocessor'),
            (simmim, [dict(inputs=images)], mean_image, 'put SimMIMMaskGenerator ahead of PackInputs'),
            (simmim, [dict(inputs=images, data_samples=samples)], mean_image, 'got 1 masks for 2'),
            (simmim, [dict(inputs=[images, images], data_samples=[])], mean_image, 'one view of each image'),
            (echo(), [(images, mask * 0)], mean_image, 'hide no pixel of 2 images'),
            (echo(), [(images, mask * 0 + 1)], mean_image, 'leave a token of each image visible'),
            (echo(), [(images, mask + 1)], mean_image, 'mask must hold 0 for visible and 1 for hidden'),
            (echo(), [(images, mask[:, :5])], mean_image, r'whose sides are multiples .* got \(2, 5, 7\)'),
            (echo(), [(images, mask[:1])], mean_image, r'got \(1, 7, 7\)'),
            (echo(), [(images, mask)], mean_image[..., :20], r'mean_image must be a tensor \(1, 28, 28\)')):
        with pytest.raises(UserError, match=message):
            hidden_pixel_error(model, batches, mean)
    with pytest.raises(UserError, match='batches is empty'):
        mean_of(echo(), [])
    with pytest.raises(UserError, match=r'one shape, got \(1, 28, 28\) and then \(1, 28, 20\)'):
        mean_of(echo(), [(images, None), (images[..., :20], None)])
