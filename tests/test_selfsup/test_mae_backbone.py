"""A PerViT that drops hidden tokens equals one that runs on the whole grid and looks away."""
import pytest
import torch
from conftest import TINY_ARCH, naming, randomize

from pervit_mm.models import PerViT
from pervit_mm.selfsup import MAEPerViT
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')


def backbone(side=28, **options):
    return randomize(MAEPerViT(TINY_ARCH, img_size=side, in_channels=1, **options))


def whole_grid(model, images, hidden):
    """Tokens ``(B, N, C)``, by definition: hidden ones zero ahead of each CPE, and their keys at minus infinity."""
    tokens, hw_shape = model.embed(images, hidden)
    gone = hidden.flatten(1)
    for block, log_position in zip(model.blocks, model.position_terms(hw_shape)):
        tokens = tokens.masked_fill(gone[..., None], 0)
        q, k, v = block.attn.heads(block.norm1(block.cpe(tokens, hw_shape)))
        scores = q @ k.transpose(-2, -1) / q.shape[-1]**0.5 + log_position
        attended = scores.masked_fill(gone[:, None, None], -torch.inf).softmax(-1) @ v
        tokens = tokens + block.attn.proj(attended.transpose(1, 2).flatten(2))
        tokens = block.shortcut(tokens) + block.ffn(block.norm2(tokens))
    return getattr(model, f'norm{model.num_layers - 1}')(tokens)


# 12 of 49 and 49 of 196 tokens; then sides that the stride does not divide, where the whole stem runs.
@pytest.mark.parametrize('side, count, options', [(28, 12, {}), (56, 49, dict(with_cp=True)), (30, 16, {})])
def test_dropping_equals_the_whole_grid_that_looks_away(side, count, options):
    """Outputs to 1e-5, and gradients, and BatchNorm's running statistics."""
    model, other = backbone(side, **options).train(), backbone(side).train()
    images, weight = torch.randn(3, 1, side, side), torch.randn(3, count, 24)
    latent, mask, ids_restore = model(images)
    hidden = mask.bool().view(3, *model.patch_resolution)
    expected = whole_grid(other, images, hidden)[~mask.bool()].view(3, count, 24)
    assert latent.shape == (3, count, 24) and not torch.equal(mask[0], mask[1])
    torch.testing.assert_close(latent, expected, atol=1e-5, rtol=1e-5)
    (latent * weight).sum().backward()
    (expected * weight).sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters()):
        scale = theirs.grad.abs().max().item()
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4 * max(scale, 1.), rtol=1e-3, msg=naming(name))
    for (name, ours), theirs in zip(model.named_buffers(), other.buffers()):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5, msg=naming(name))
    # Visible tokens stand first, row by row, then hidden ones.
    for own, places in zip(mask, ids_restore):
        order = [n for n in range(len(own)) if not own[n]] + [n for n in range(len(own)) if own[n]]
        assert [order[place] for place in places] == list(range(len(own)))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('options', [{}, dict(stem_cfg=dict(type='patchify'))])
def test_hidden_pixels_change_no_output(training, options):
    """By exactly nothing, with the masks given; visible pixels do change the output."""
    model, images = backbone(**options).train(training), torch.randn(2, 1, 28, 28)
    mask = torch.zeros(2, 7, 7)
    mask[:, 1:5, 2:] = 1
    hidden, noise = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].bool(), torch.randn_like(images)
    with torch.no_grad():
        expected = model(images, mask)[0]
        assert torch.equal(model(torch.where(hidden, noise, images), mask)[0], expected)
        assert not torch.equal(model(torch.where(hidden, images, noise), mask)[0], expected)


def test_whole_images_are_those_of_pervit():
    """Without a mask, and in eval mode, where k-NN and probes ask without naming it."""
    model, images = backbone().eval(), torch.rand(2, 1, 28, 28)
    plain = PerViT(TINY_ARCH, img_size=28, in_channels=1).eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = plain(images)
        assert torch.equal(model(images)[0], expected[0]) and torch.equal(model(images, mask=None)[0], expected[0])
        torch.testing.assert_close(model.train()(images, mask=None)[0], plain.train()(images)[0])


def test_the_important_are_kept_more_often():
    """One of four tokens stays, each as often as its importance says; an importance of zero never, if others do."""
    model, images = MAEPerViT(TINY_ARCH, img_size=8, in_channels=1), torch.zeros(20000, 1, 8, 8)
    kept = ~model.draw_mask(images, torch.tensor([[0., 0.2, 0.3, 0.5]]).expand(20000, -1)).flatten(1)
    assert (kept.sum(1) == 1).all() and not kept[:, 0].any()
    torch.testing.assert_close(kept.float().mean(0), torch.tensor([0., 0.2, 0.3, 0.5]), atol=0.015, rtol=0)
    kept = ~model.draw_mask(images).flatten(1)
    torch.testing.assert_close(kept.float().mean(0), torch.full((4, ), 0.25), atol=0.015, rtol=0)
    model.mask_ratio = 0.25
    kept = ~model.draw_mask(images[:5], torch.tensor([[1., 0., 0., 0.]]).expand(5, -1)).flatten(1)
    assert (kept.sum(1) == 3).all()


def test_mistakes():
    images = torch.rand(2, 1, 28, 28)
    uneven = torch.zeros(2, 7, 7)
    uneven[0, 0] = 1
    for mask, message in ((uneven, 'same number of tokens of each image visible, .* got 42 to 49'),
                          (torch.ones(2, 7, 7), 'and at least one, got 0 to 0'),
                          (torch.zeros(2, 28, 28), 'hidden must be boolean of shape'),
                          (torch.full((2, 7, 7), 0.5), 'mask must hold 0 for visible')):
        with pytest.raises(UserError, match=message):
            backbone()(images, mask)
    alone = torch.ones(1, 7, 7)
    alone[0, 3, 3] = 0
    with pytest.raises(UserError, match='leaves 1 visible positions in the batch, .*: hide fewer tokens'):
        backbone().train()(images[:1], alone)
    for options, message in ((dict(mask_ratio=1.), 'mask_ratio of MAEPerViT must be above 0 and below 1, got 1.0'),
                             (dict(window_size=4), 'window_size of MAEPerViT must be None'),
                             (dict(out_indices=(0, 2)), r'last block alone, -1, got \(0, 2\)')):
        with pytest.raises(UserError, match=message):
            backbone(**options)
    with pytest.raises(UserError, match=r'importance must be \(B, H \* W\) = \(2, 49\), got \(2, 50\)'):
        backbone().draw_mask(images, torch.rand(2, 50))
