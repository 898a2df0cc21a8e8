"""Other models built on PerViT with only its three public methods: embed, position_terms and run_blocks."""
import copy

import pytest
import torch
from conftest import TINY_ARCH, randomize
from torch import nn

from pervit_mm.models import PerViT

IMAGES = torch.randn(3, 3, 28, 24, generator=torch.Generator().manual_seed(5))
FORMS = [dict(), dict(window_size=4, global_attn_indexes=(1, )), dict(position_cfg=None), dict(distance_scale='fixed'),
         dict(position_cache_bytes=0), dict(with_cp=True)]


def build(**kwargs):
    kwargs = dict(dict(img_size=28, out_indices=(0, 1, 2), out_type='raw'), **kwargs)
    return randomize(PerViT(TINY_ARCH, **kwargs))


class Recorder:
    """Returns the tokens after each block and log Φp, without a hook and without a copy of PerViT's forward."""

    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def __call__(self, images):
        tokens, hw_shape = self.model.embed(images)
        terms = self.model.position_terms(hw_shape)
        return list(self.model.run_blocks(tokens, hw_shape, terms)), list(terms)


class MaskedModel(nn.Module):
    """Predicts hidden patches of 4 x 4 pixels from the visible ones."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.mask_token = nn.Parameter(torch.zeros(backbone.arch_settings['embed_dims'][0]))
        self.decoder = nn.Linear(backbone.out_channels[-1], 3 * backbone.out_stride**2)

    def forward(self, images, hidden):
        tokens, hw_shape = self.backbone.embed(images, hidden)
        tokens = torch.where(hidden.flatten(1)[..., None], self.mask_token, tokens)
        *_, tokens = self.backbone.run_blocks(tokens, hw_shape, self.backbone.position_terms(hw_shape))
        return self.decoder(tokens)


@pytest.mark.parametrize('kwargs', FORMS)
@pytest.mark.parametrize('deploy', [False, True])
def test_forward_is_made_of_the_three_public_methods(kwargs, deploy):
    model = build(**kwargs).eval()
    if deploy:
        model.switch_to_deploy([(7, 6)])
    tokens, _ = Recorder(model)(IMAGES)
    with torch.no_grad():
        for i, out in enumerate(model(IMAGES)):
            torch.testing.assert_close(getattr(model, f'norm{i}')(tokens[i]), out, atol=0, rtol=0)


@pytest.mark.parametrize('kwargs', FORMS)
def test_position_terms_are_the_same_from_everywhere(kwargs):
    """They are the same if computed for all blocks together, for one block alone, or taken from the cache."""
    model = build(**kwargs)
    together = list(copy.deepcopy(model).train().position_terms((7, 6)))
    with torch.no_grad():
        kept = [list(model.eval().position_terms((7, 6))) for _ in range(2)]
    for i, block in enumerate(model.blocks):
        grid = block.window_size or (7, 6)
        if block.attn.position is None:
            assert together[i] is kept[0][i] is kept[1][i] is None
            continue
        alone = block.attn.position(grid, model.position_proj)
        assert alone.shape == (2, grid[0] * grid[1], grid[0] * grid[1]) and alone.dtype == torch.float32
        for made in (together[i], kept[0][i], kept[1][i]):
            torch.testing.assert_close(made, alone, atol=1e-6, rtol=1e-6)
    terms = model.position_terms((7, 6))
    assert len(terms) == 3
    with pytest.raises(IndexError):
        terms[3]


def test_terms_beyond_the_last_output_are_made_when_asked_for():
    model = build(out_indices=(0, ))
    terms = model.position_terms((7, 6))
    alone = model.blocks[2].attn.position((7, 6), model.position_proj)
    torch.testing.assert_close(terms[2], alone, atol=0, rtol=0)


def test_a_masked_model_learns_and_sees_nothing_hidden():
    """Each image has a single color. The model sees the left half and predicts the right half."""
    model = MaskedModel(PerViT(TINY_ARCH, img_size=28, out_type='raw'))
    model.backbone.init_weights()
    images = torch.randn(16, 3, 1, 1, generator=torch.Generator().manual_seed(7)).expand(-1, -1, 28, 28).contiguous()
    hidden = torch.zeros(16, 7, 7, dtype=torch.bool)
    hidden[:, :, 4:] = True
    target = images[:, :, :1, :1].expand(-1, -1, 4, 4).flatten(1)[:, None]  # of every patch
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(150):
        loss = (model(images, hidden) - target)[hidden.flatten(1)].abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert model.mask_token.grad.abs().sum() > 0
    assert losses[-1] < 0.5 * losses[0], 'it learns'  # 0.2 to 0.35, by the processor's rounding
    other = images.clone()
    other[:, :, :, 16:] = torch.randn(16, 3, 28, 12)  # what is hidden
    for mode in (True, False):
        model.train(mode)
        with torch.no_grad():
            assert torch.equal(model(images, hidden), model(other, hidden)), 'and it guesses'
