"""Decoders that get visible tokens alone, without a class token among them."""
import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from pervit_mm.selfsup import MAETokenDecoder, PromptTokenDecoder
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')
SIZES = dict(img_size=12, embed_dims=8, num_layers=2, num_heads=2)


def make_mask(batch=3, tokens=9, hidden=6):
    """Masks ``(B, N)``, numbers of visible tokens, and where each token stands among visible, then hidden ones."""
    mask = torch.rand(batch, tokens).argsort(1) < hidden
    order = mask.byte().argsort(dim=1, stable=True)
    return mask, order[:, :tokens - hidden], order.argsort(1)


@pytest.mark.parametrize('decoder', [MAETokenDecoder(8, 4, 1, **SIZES), PromptTokenDecoder(8, 4, 8, **SIZES)])
def test_every_token_gets_to_its_place(decoder):
    """If encoder and decoder change nothing, each visible token is where it was, and the mask token elsewhere."""
    mask, kept, ids_restore = make_mask()
    for name in ('embed', 'norm', 'pred'):
        setattr(decoder, name, nn.Identity())
    decoder.blocks, decoder.position = nn.ModuleList(), torch.zeros(9, 8)
    nn.init.constant_(decoder.mask_token, -1.)
    tokens = torch.randn(3, 9, 8)
    latent = tokens[~mask].view(3, 3, 8)  # row by row, as the encoder gives them
    assert torch.equal(latent, tokens.gather(1, kept[..., None].expand(-1, -1, 8)))
    assert torch.equal(decoder(latent, ids_restore), tokens.masked_fill(mask[..., None], -1.))


@pytest.mark.parametrize('decoder', [MAETokenDecoder(8, 4, 1, **SIZES), PromptTokenDecoder(8, 4, 5, **SIZES)])
def test_a_hidden_token_knows_its_place_by_sines_and_cosines(decoder):
    """Positions are those of He et al.: a quarter each of sin and cos of the row, then of the column."""
    for number, found in enumerate(decoder.position):
        row, column = divmod(number, 3)
        rates = 1 / 10000**(torch.arange(2) / 2)
        expected = torch.cat([(row * rates).sin(), (row * rates).cos(), (column * rates).sin(), (column * rates).cos()])
        torch.testing.assert_close(found, expected)
    randomize(decoder)
    mask, _, ids_restore = make_mask()
    with torch.no_grad():
        hidden = decoder(torch.randn(3, 3, 8), ids_restore)[0][mask[0]]
    assert torch.pdist(hidden).min() > 1e-3 and 'position' not in decoder.state_dict()


def test_the_blocks_of_mae_are_those_of_a_vision_transformer():
    """Against torch's own encoder layer with the same weights."""
    block = randomize(MAETokenDecoder(8, 4, 1, **SIZES)).blocks[0]
    layer = nn.TransformerEncoderLayer(8, 2, 32, 0., 'gelu', 1e-6, batch_first=True, norm_first=True)
    names = dict(zip(('self_attn.in_proj_', 'self_attn.out_proj.', 'linear1.', 'linear2.', 'norm1.', 'norm2.'),
                     ('attn.qkv.', 'attn.proj.', 'ffn.fc1.', 'ffn.fc2.', 'norm1.', 'norm2.')))
    state = block.state_dict()
    layer.load_state_dict({theirs + kind: state[ours + kind] for theirs, ours in names.items()
                           for kind in ('weight', 'bias')})
    tokens = torch.randn(3, 9, 8)
    torch.testing.assert_close(block(tokens, (3, 3)), layer(tokens), atol=1e-5, rtol=1e-5)


def test_prompting_blocks_leave_visible_tokens_as_they_are():
    """To the bit; hidden ones see visible and hidden ones, against the formula with all weights written out."""
    decoder = randomize(PromptTokenDecoder(8, 4, 5, **SIZES))
    visible, hidden = torch.randn(3, 3, 8), torch.randn(3, 6, 8)
    with torch.no_grad():
        out = decoder.run_blocks(visible, hidden)
        assert torch.equal(out[:, :3], visible) and not torch.equal(out[:, 3:], hidden)
        for block in decoder.blocks:
            q, k, v = block.attn.qkv(torch.cat([visible, block.norm1(hidden)], 1)).view(3, 9, 3, 2, 4).unbind(2)
            weights = torch.einsum('bqhd,bkhd->bhqk', q[:, 3:], k).div(2).softmax(-1)
            hidden = hidden + block.attn.proj(torch.einsum('bhqk,bkhd->bqhd', weights, v).flatten(2))
            hidden = hidden + block.ffn(block.norm2(hidden))
    torch.testing.assert_close(out[:, 3:], hidden, atol=1e-5, rtol=1e-5)


def test_mae_of_mmpretrain_trains_it():
    """Its loss is the squared error on hidden pixels, written out, and all parameters learn."""
    pytest.importorskip('mmpretrain')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(
            type='mmpretrain.MAE',
            backbone=dict(type='MAEPerViT', arch=TINY_ARCH, img_size=28, in_channels=1),
            neck=dict(type='MAETokenDecoder', in_channels=24, encoder_stride=4, out_channels=1,
                      **{**SIZES, 'img_size': 28}),
            head=dict(type='MAEPretrainHead', patch_size=4, in_channels=1,
                      loss=dict(type='PixelReconstructionLoss', criterion='L2'))))
    randomize(model).train()
    images, seen = torch.rand(2, 1, 28, 28), []
    model.neck.register_forward_hook(lambda module, args, output: seen.append((args[1], output)))
    loss = model.loss(images, [])['loss']
    ids_restore, predicted = seen[0]
    errors = []
    for b in range(2):
        for token in range(49):
            if ids_restore[b, token] >= 12:
                y, x = 4 * (token // 7), 4 * (token % 7)
                errors.append((predicted[b, token].view(4, 4) - images[b, 0, y:y + 4, x:x + 4]).square().mean())
    assert len(errors) == 2 * 37 and loss.item() == pytest.approx(torch.stack(errors).mean().item())
    loss.backward()
    assert all(param.grad is not None for param in model.parameters())
    assert torch.equal(model.eval().extract_feat(images)[0], model.backbone(images)[0])


def test_mistakes():
    for options, message in ((dict(embed_dims=6), 'embed_dims of MAETokenDecoder must be a multiple of 4 and of num'),
                             (dict(num_heads=3), 'of num_heads=3, got 8'),
                             (dict(num_layers=0), 'num_layers of MAETokenDecoder must be a positive integer')):
        with pytest.raises(UserError, match=message):
            MAETokenDecoder(8, 4, 1, **{**SIZES, **options})
    with pytest.raises(UserError, match='they have 16 tokens, and the decoder has places for 9'):
        MAETokenDecoder(8, 4, 1, **SIZES)(torch.rand(1, 4, 8), torch.arange(16)[None])
