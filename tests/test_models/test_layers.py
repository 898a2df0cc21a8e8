"""The stem with hidden tokens."""
import copy

import pytest
import torch
from conftest import TINY_ARCH, randomize

from pervit_mm.models import PerViT

STEMS = [None, dict(norm_cfg=dict(type='GN', num_groups=2)), dict(norm_cfg=dict(type='SyncBN')), dict(type='patchify')]
ARCH = {**TINY_ARCH, 'stem_channels': (4, 8)}  # stride 8: three convolutions with overlapping receptive fields


def build(stem_cfg=None):
    model = randomize(PerViT(ARCH, img_size=32, stem_cfg=stem_cfg))
    images, hidden = torch.randn(4, 3, 36, 40), torch.rand(4, 5, 5) < 0.4  # the last row of tokens is half a patch
    return model, images, hidden


def spread(hidden, images):
    return hidden.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None, :images.shape[2], :images.shape[3]]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('stem_cfg', STEMS)
def test_hidden_pixels_change_nothing(stem_cfg, training):
    """Tokens and running statistics are exactly the same, even if the hidden pixels are NaN."""
    if training and stem_cfg and stem_cfg.get('norm_cfg', {}).get('type') == 'SyncBN':
        pytest.skip('SyncBN takes no CPU tensors in training')
    model, images, hidden = build(stem_cfg)
    model.train(training)
    outputs, states = [], []
    for fill in (images, torch.randn_like(images) * 100, torch.full_like(images, float('nan'))):
        stem = copy.deepcopy(model)
        tokens, hw_shape = stem.embed(torch.where(spread(hidden, images), fill, images), hidden)
        outputs.append(tokens)
        states.append([buffer.clone() for buffer in stem.buffers()])
    assert hw_shape == (5, 5)
    for tokens, buffers in zip(outputs[1:], states[1:]):
        assert torch.equal(tokens, outputs[0])
        assert all(torch.equal(a, b) for a, b in zip(buffers, states[0]))
    assert torch.equal(outputs[0][hidden.flatten(1)], model.stem.proj.bias.expand(int(hidden.sum()), -1))


def test_hidden_pixels_change_visible_tokens_without_the_mask():
    """The control: receptive fields of the stem overlap, so zeroing tokens afterwards would leak hidden pixels."""
    model, images, hidden = build()
    model.eval()
    plain, _ = model.embed(images)
    other, _ = model.embed(torch.where(spread(hidden, images), torch.randn_like(images), images))
    assert not torch.equal(plain[~hidden.flatten(1)], other[~hidden.flatten(1)])


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('stem_cfg', STEMS[:2] + STEMS[3:])
def test_nothing_hidden_is_the_plain_stem(stem_cfg, training):
    model, images, hidden = build(stem_cfg)
    plain, masked = copy.deepcopy(model).train(training), copy.deepcopy(model).train(training)
    torch.testing.assert_close(masked.embed(images, torch.zeros_like(hidden))[0], plain.embed(images)[0],
                               atol=1e-5, rtol=1e-4)
    for a, b in zip(masked.buffers(), plain.buffers()):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_batch_norm_uses_visible_positions_alone():
    """Running statistics against the mean and variance of the visible positions, computed by hand."""
    model, images, hidden = build()
    model.train().embed(images, hidden)
    layer = model.stem.layers[0]
    conv = torch.nn.functional.conv2d(images.masked_fill(spread(hidden, images), 0), layer.conv.weight, layer.conv.bias,
                                      stride=2, padding=1)
    fine = hidden.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :conv.shape[2], :conv.shape[3]]
    visible = conv.permute(0, 2, 3, 1)[~fine]
    before = randomize(PerViT(ARCH, img_size=32)).stem.layers[0].norm
    torch.testing.assert_close(layer.norm.running_mean, 0.9 * before.running_mean + 0.1 * visible.mean(0))
    torch.testing.assert_close(layer.norm.running_var, 0.9 * before.running_var + 0.1 * visible.var(0))


@pytest.mark.parametrize('hidden', [torch.zeros(4, 5, 5), torch.zeros(4, 5, 4, dtype=torch.bool),
                                    torch.zeros(4, 25, dtype=torch.bool)])
def test_a_wrong_mask_is_named(hidden):
    model, images, _ = build()
    with pytest.raises(ValueError, match=r'hidden must be boolean of shape \(B, H, W\) = \(4, 5, 5\) for images of '):
        model.embed(images, hidden)


def test_gradients_of_a_masked_stem_are_those_of_finite_differences():
    """Of all its weights, through BatchNorm's statistics of visible positions."""
    model, images, hidden = build()
    stem, images = model.stem.double().train(), images[:2].double()
    inputs = [param for layer in stem.layers for param in (layer.conv.weight, layer.norm.weight, layer.norm.bias)]

    def visible_tokens(*_):
        return stem(images, hidden[:2]).permute(0, 2, 3, 1)[~hidden[:2]]

    assert torch.autograd.gradcheck(visible_tokens, inputs, fast_mode=True)
