"""PerViT against the recorded outputs of the authors' code (tests/data)."""
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import official_keys, official_state
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from pervit_mm.checkpoints.official import from_official, key_pairs, to_official

CONFIGS = Path(__file__).parents[2] / 'configs'


def classifier(size):
    """The model of configs/pervit_{size}.py."""
    init_default_scope('mmpretrain')
    return MODELS.build(Config.fromfile(CONFIGS / f'pervit_{size}.py').model)


@pytest.fixture(scope='module')
def model():
    model = classifier('tiny')
    model.load_state_dict(from_official(official_state('tiny')), strict=True)
    return model.eval()


@pytest.fixture(scope='module')
def images():
    draw = np.random.default_rng(0).standard_normal((2, 3, 224, 224))
    return torch.from_numpy(draw.astype(np.float32))


def test_logits_and_tokens_are_the_authors(model, images, golden):
    tokens = {}
    handles = [
        block.register_forward_hook(lambda m, a, out, i=i: tokens.__setitem__(i, out))
        for i, block in enumerate(model.backbone.blocks)
    ]
    with torch.no_grad():
        stem = model.backbone.stem(images)
        logits = model(images, mode='tensor')
    for handle in handles:
        handle.remove()
    np.testing.assert_allclose(logits, golden['logits'], atol=1e-4, rtol=0)
    np.testing.assert_allclose(stem.mean(1).flatten(1), golden['stem_mean'], atol=1e-4, rtol=0)
    for i in range(12):
        np.testing.assert_allclose(tokens[i].mean(-1), golden['block_token_mean'][i], atol=1e-4, rtol=0)
    normed = model.backbone.norm11(tokens[11])
    np.testing.assert_allclose(normed.detach().mean(-1), golden['normed_tokens_mean'], atol=1e-4, rtol=0)
    np.testing.assert_allclose(normed.detach().mean(1), golden['image_embedding'], atol=1e-4, rtol=0)


def test_position_attention_is_the_authors(model, golden):
    queries = golden['position_queries'] @ [14, 1]
    with torch.no_grad():
        terms = model.backbone.position_terms((14, 14))
    for i, term in enumerate(terms):
        phi = term.exp().numpy()
        np.testing.assert_allclose(phi[:, queries], golden['position_attention'][i], atol=1e-5, rtol=0)
        np.testing.assert_allclose(phi.mean((1, 2)), golden['position_attention_mean'][i], atol=1e-5, rtol=0)


def test_gradient_norms_are_the_authors(model, images, golden):
    model.zero_grad()
    model(images, mode='tensor').square().mean().backward()
    grads = {name: param.grad.norm().item() for name, param in model.named_parameters()}
    model.zero_grad()
    names = dict(key_pairs())
    zeros = 0
    for key, expected in zip(golden['grad_norm_keys'], golden['grad_norms']):
        key = str(key)
        if key == 'rpe_proj.bias' or key.endswith(('activation.conv1.bias', 'activation.conv2.bias')):
            zeros += 1  # a bias before a norm has no effect
            assert grads[names[key]] < 1e-7 and expected < 1e-7
        else:
            assert grads[names[key]] == pytest.approx(expected, rel=1e-3), key
    assert zeros == 25 and len(grads) == len(golden['grad_norms'])


@pytest.mark.cuda
def test_outputs_on_cuda_are_the_authors(images, golden):
    """With PyTorch's default flags convolutions run in TF32. Φp does not."""
    model = classifier('tiny').eval()
    model.load_state_dict(from_official(official_state('tiny')), strict=True)
    model.cuda()
    queries = golden['position_queries'] @ [14, 1]
    with torch.no_grad():
        for i, term in enumerate(model.backbone.position_terms((14, 14))):
            phi = term.exp().cpu().numpy()[:, queries]
            np.testing.assert_allclose(phi, golden['position_attention'][i], atol=1e-4, rtol=0)
        logits = model(images.cuda(), mode='tensor').cpu()
        np.testing.assert_allclose(logits, golden['logits'], atol=5e-2, rtol=0)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            logits = model(images.cuda(), mode='tensor').cpu()
    np.testing.assert_allclose(logits, golden['logits'], atol=1e-3, rtol=0)


@pytest.mark.parametrize('size, parameters', [('tiny', 7591000), ('small', 21317672), ('medium', 43723936)])
def test_every_official_size_loads_strictly_and_returns(size, parameters):
    model = classifier(size)
    assert sum(p.numel() for p in model.parameters()) == parameters
    official = official_state(size)
    ours = from_official(official)
    model.load_state_dict(ours, strict=True)
    back = to_official(model.state_dict())
    assert set(back) == set(official_keys(size))
    assert all(torch.equal(back[key], official[key]) for key in official)


def test_unknown_and_missing_keys_are_named():
    state = official_state('tiny')
    state['blocks.3.attn.extra'] = state.pop('blocks.10.mlp.fc2.bias')
    with pytest.raises(ValueError, match=r"unknown keys \['blocks.3.attn.extra'\], "
                       r"missing keys \['blocks.10.mlp.fc2.bias'\]"):
        from_official(state)
    ours = from_official(official_state('tiny'))
    del ours['head.fc.bias']
    with pytest.raises(ValueError, match=r"unknown keys none, missing keys \['head.fc.bias'\]"):
        to_official(ours)
