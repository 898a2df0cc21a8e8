"""Masked modeling: hidden pixels leak nothing, and the parts fit MMPretrain's SimMIM."""
import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.registry import MODELS, DefaultScope

from pervit_mm.models import PerViT
from pervit_mm.selfsup import MaskTokenPerViT, PixelShuffleDecoder
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')


def backbone(**options):
    return randomize(MaskTokenPerViT(TINY_ARCH, img_size=28, in_channels=1, out_type='featmap', **options))


def half_hidden():
    mask = torch.zeros(2, 7, 7)
    mask[:, 1:5, 2:] = 1
    return mask


@pytest.mark.parametrize('training', [True, False])
def test_hidden_pixels_change_no_output(training):
    """By exactly nothing, also through the statistics of BatchNorm; visible pixels do change the output."""
    model, images, mask = backbone().train(training), torch.rand(2, 1, 28, 28), half_hidden()
    hidden = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].bool()
    noise = torch.randn_like(images)
    with torch.no_grad():
        expected = model(images, mask)[0]
        assert torch.equal(model(torch.where(hidden, noise, images), mask)[0], expected)
        assert not torch.equal(model(torch.where(hidden, images, noise), mask)[0], expected)


def test_the_mask_token_stands_where_tokens_are_hidden():
    """Against the same steps by hand, through the seam of the backbone."""
    model, images, mask = backbone().eval(), torch.rand(2, 1, 28, 28), half_hidden()
    with torch.no_grad():
        found = model(images, mask)[0]
        tokens, hw_shape = model.embed(images, mask.bool())
        tokens[mask.flatten(1).bool()] = model.mask_token[0, 0]
        *_, last = model.run_blocks(tokens, hw_shape, model.position_terms(hw_shape))
        norm = getattr(model, f'norm{model.num_layers - 1}')
        expected = norm(last).transpose(1, 2).unflatten(2, hw_shape)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_without_a_mask_it_is_pervit():
    model = backbone().eval()
    plain = PerViT(TINY_ARCH, img_size=28, in_channels=1, out_type='featmap').eval()
    missing, unexpected = plain.load_state_dict(model.state_dict(), strict=False)
    images = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        assert not missing and unexpected == ['mask_token']
        assert torch.equal(model(images)[0], plain(images)[0])


def test_an_empty_mask_keeps_the_token_in_the_graph():
    model = backbone()
    model(torch.rand(2, 1, 28, 28), torch.zeros(2, 7, 7))[0].sum().backward()
    assert model.mask_token.grad.abs().sum() == 0


def test_mistakes():
    images = torch.rand(2, 1, 28, 28)
    with pytest.raises(UserError, match='mask must hold 0 for visible and 1 for hidden'):
        backbone()(images, torch.full((2, 7, 7), 0.5))
    with pytest.raises(UserError, match='hidden must be boolean of shape'):
        backbone()(images, torch.zeros(2, 28, 28))
    with pytest.raises(UserError, match='out_channels of PixelShuffleDecoder'):
        PixelShuffleDecoder(8, 4, 0)


def test_the_decoder_puts_each_token_on_its_pixels():
    """One token is one patch of every channel, and no other pixel depends on it."""
    decoder, features = PixelShuffleDecoder(5, 4, 2), torch.rand(1, 5, 3, 2)
    with torch.no_grad():
        changed = features.clone()
        changed[..., 1, 0] += 1
        difference = (decoder(changed) - decoder(features)).abs().sum(1)[0]
    assert difference.shape == (12, 8)
    assert (difference[4:8, :4] > 0).all() and difference.sum() == pytest.approx(difference[4:8, :4].sum().item())


def test_simmim_of_mmpretrain_trains_it():
    """Its loss is the L1 error on hidden pixels, over their number and the channels, written out."""
    pytest.importorskip('mmpretrain')
    from mmpretrain.structures import DataSample
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(
            type='mmpretrain.SimMIM',
            backbone=dict(type='MaskTokenPerViT', arch=TINY_ARCH, img_size=28, in_channels=1, out_type='featmap'),
            neck=dict(type='PixelShuffleDecoder', in_channels=24, encoder_stride=4, out_channels=1),
            head=dict(type='SimMIMHead', patch_size=4, loss=dict(type='PixelReconstructionLoss', criterion='L1',
                                                                 channel=1))))
    randomize(model).eval()
    images, mask = torch.rand(2, 1, 28, 28), half_hidden()
    loss = model.loss(images, [DataSample(mask=one) for one in mask])['loss']
    hidden = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].bool()
    predicted = model.neck(model.backbone(images, mask)[0])
    assert loss.item() == pytest.approx((predicted - images)[hidden].abs().mean().item())
    loss.backward()
    assert model.backbone.mask_token.grad.abs().sum() > 0
