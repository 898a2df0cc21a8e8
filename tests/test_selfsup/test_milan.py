"""MILAN: targets and importance from a frozen network."""
import copy

import pytest
import torch
from conftest import TINY_ARCH, randomize
from distillation_run import distillation_runner
from torch import nn

from pervit_mm.models import PerViT
from pervit_mm.selfsup import PerViTMILAN, PerViTTargetGenerator
from pervit_mm.selfsup.received_attention import received_attention
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')
BACKBONE = dict(type='PerViT', arch=TINY_ARCH, img_size=28, in_channels=1)
LOSS = dict(type='mmpretrain.CosineSimilarityLoss', shift_factor=2., scale_factor=2.)


def neck(**options):
    return dict(type='PromptTokenDecoder', in_channels=24, **{**dict(
        encoder_stride=4, target_channels=24, img_size=28, embed_dims=16, num_layers=1, num_heads=2), **options})


def milan(**options):
    return PerViTMILAN(**{**dict(
        backbone=dict(BACKBONE, type='MAEPerViT'), neck=neck(), head=dict(type='mmpretrain.MIMHead', loss=LOSS),
        target_generator=dict(type='PerViTTargetGenerator', backbone=BACKBONE, checkpoint=None)), **options})


def test_the_loss_is_zero_at_the_target_and_four_at_its_opposite():
    """Over all tokens; lengths don't count."""
    model, images = randomize(milan()).train(), torch.rand(2, 1, 28, 28)
    targets = model.target_generator(images)[0]
    for factor, expected in ((3., 0.), (-2., 4.)):
        model.neck.forward = lambda latent, ids_restore: factor * targets  # noqa: B023
        assert model.loss(images)['loss'].item() == pytest.approx(expected, abs=1e-6)
    half = targets.clone()
    half[:, ::2] *= -1  # 25 of 49 tokens
    model.neck.forward = lambda latent, ids_restore: half
    assert model.loss(images)['loss'].item() == pytest.approx(4 * 25 / 49)


def test_importance_is_the_share_of_each_token_in_the_pooled_output():
    """The mean over tokens of what the last attention gives, ahead of its projection, is made of values by it."""
    generator, images = randomize(PerViTTargetGenerator(dict(BACKBONE), None)), torch.rand(2, 1, 28, 28)
    targets, importance = generator(images)
    backbone, seen = generator.backbone, []
    attn = backbone.blocks[-1].attn
    attn.register_forward_hook(lambda module, args, output: seen.append(args))
    assert torch.equal(backbone(images)[0], targets) and targets.shape == (2, 49, 24)
    tokens, _, log_position = seen[0][:3]
    q, k, _ = attn.heads(tokens)
    shares = torch.zeros(2, 49)
    for b in range(2):
        for head in range(2):
            for query in range(49):
                weight = (q[b, head, query] @ k[b, head].t() / 12**0.5).exp() * log_position[head, query].exp()
                shares[b] += (weight / weight.sum()).detach() / 2 / 49
    torch.testing.assert_close(importance, shares)
    torch.testing.assert_close(importance.sum(1), torch.ones(2))


def test_the_generator_never_learns():
    model = randomize(milan()).train()
    before = copy.deepcopy(model.target_generator.state_dict())
    model.loss(torch.rand(2, 1, 28, 28))['loss'].backward()
    assert not any(module.training for module in model.target_generator.modules()) and model.backbone.training
    assert all(param.grad is None for param in model.target_generator.parameters())
    assert all(param.grad is not None for part in (model.backbone, model.neck) for param in part.parameters())
    for key, value in model.target_generator.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_important_are_seen(monkeypatch):
    """The masks are drawn by what the generator finds important."""
    model, images, masks = randomize(milan()).train(), torch.rand(4, 1, 28, 28), []
    wanted = torch.stack([torch.randperm(49)[:12] for _ in range(4)])
    importance = torch.zeros(4, 49).scatter_(1, wanted, 1.)
    targets = model.target_generator(images)[0]
    monkeypatch.setattr(model.target_generator, 'forward', lambda images: (targets, importance))
    model.backbone.register_forward_hook(lambda module, args, output: masks.append(output[1]))
    model.loss(images)
    assert torch.equal(masks[0], 1 - importance)


def test_weights_come_from_the_checkpoint_of_a_teacher(tmp_path):
    """At the initialization of the whole model, which leaves the student's weights random."""
    teacher = randomize(PerViT(**{key: value for key, value in BACKBONE.items() if key != 'type'}))
    path = str(tmp_path / 'epoch_3.pth')
    state = {f'teacher.module.backbone.{key}': value for key, value in teacher.state_dict().items()}
    torch.save(dict(state_dict=state), path)
    target = dict(type='PerViTTargetGenerator', backbone=BACKBONE, checkpoint=path)
    model = milan(target_generator=target)
    model.init_weights()
    for key, value in teacher.state_dict().items():
        assert torch.equal(model.target_generator.backbone.state_dict()[key], value), key
    assert not torch.equal(model.backbone.blocks[0].attn.qkv.weight, teacher.blocks[0].attn.qkv.weight)
    assert not any(param.requires_grad for param in model.target_generator.parameters())
    with pytest.raises(UserError, match="no weight of PerViT is in .* under prefix='backbone.'"):
        milan(target_generator=dict(target, prefix='backbone.')).init_weights()


@pytest.mark.parametrize('kind', ['mae', 'milan'])
def test_a_resumed_run_repeats_the_undisturbed_one_to_the_bit(tmp_path, kind):
    """Random masks included. The target generator is part of MILAN's checkpoints."""
    teacher = randomize(PerViT(**{key: value for key, value in BACKBONE.items() if key != 'type'}))
    path = str(tmp_path / 'teacher.pth')
    torch.save(dict(state_dict={f'backbone.{key}': value for key, value in teacher.state_dict().items()}), path)
    target = dict(type='PerViTTargetGenerator', backbone=BACKBONE, checkpoint=path, prefix='backbone.')
    model = dict(type='PerViTMILAN', backbone=dict(BACKBONE, type='MAEPerViT'), neck=neck(), target_generator=target,
                 head=dict(type='mmpretrain.MIMHead', loss=LOSS))
    if kind == 'mae':
        del model['target_generator']
        model.update(type='mmpretrain.MAE', neck=dict(
            type='MAETokenDecoder', in_channels=24, encoder_stride=4, out_channels=1, img_size=28, embed_dims=16,
            num_layers=1, num_heads=2), head=dict(
                type='MAEPretrainHead', patch_size=4, in_channels=1,
                loss=dict(type='PixelReconstructionLoss', criterion='L2')))

    def run(name, **options):
        runner = distillation_runner(tmp_path / name, model, hooks=(), epochs=3, sizes=28,
                                     checkpoint=dict(type='PerViTCheckpointHook', interval=1), **options)
        runner.train()
        return dict(runner.model.state_dict())

    expected = run('whole')
    found = run('resumed', resume=True, load_from=str(tmp_path / 'whole' / 'epoch_1.pth'))
    assert expected.keys() == found.keys()
    assert any(key.startswith('target_generator.') for key in expected) == (kind == 'milan')
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key


@pytest.fixture
def clip(tmp_path):
    """Path of random weights of a small CLIP, and its image encoder."""
    from mmpretrain.models.utils.clip_generator_helper import CLIP
    model = CLIP(embed_dim=10, image_resolution=32, vision_layers=2, vision_width=64, vision_patch_size=8,
                 context_length=4, vocab_size=7, transformer_width=64, transformer_heads=1, transformer_layers=1)
    nn.init.normal_(model.text_projection)  # MMPretrain leaves it as the memory was
    path = str(tmp_path / 'clip.pth')
    torch.save(model.state_dict(), path)
    return path, model.visual.eval()


def test_clip_tells_targets_and_importance(clip):
    """What it says about all tokens but its class token, and how the class token attends to them."""
    path, visual = clip
    arch = {**TINY_ARCH, 'stem_channels': (4, 8)}  # stride 8, as CLIP's patches here
    model = milan(
        backbone=dict(type='MAEPerViT', arch=arch, img_size=32), neck=neck(encoder_stride=8, target_channels=10,
                                                                          img_size=32),
        target_generator=dict(type='PerViTCLIPTargetGenerator', checkpoint=path)).train()
    images = torch.randn(2, 3, 32, 32)
    targets, importance = model.target_generator(images)
    features, attention = visual(images)
    torch.testing.assert_close(targets, features[:, 1:])
    torch.testing.assert_close(importance, attention[:, 0, 1:])
    assert targets.shape == (2, 16, 10) and (importance > 0).all() and (importance.sum(1) < 1).all()
    model.loss(images)['loss'].backward()
    assert not model.target_generator.visual.training
    assert all(param.grad is None for param in model.target_generator.parameters())
    with pytest.raises(UserError, match=r'must be \(B, 3, 32, 32\), the size of this CLIP, got \(2, 3, 40, 40\)'):
        model.target_generator(torch.rand(2, 3, 40, 40))


def test_mistakes(tmp_path):
    path = str(tmp_path / 'other.pth')
    torch.save(dict(state_dict={}), path)
    for options, message in (
            (dict(backbone=BACKBONE), 'backbone of PerViTMILAN must be an MAEPerViT, got PerViT'),
            (dict(neck=neck(target_channels=8)), 'target_channels of PromptTokenDecoder must be 24, .* got 8'),
            (dict(target_generator=dict(type='PerViTTargetGenerator', backbone=dict(BACKBONE, window_size=4),
                                        checkpoint=None)),
             r'block 2 of the backbone must attend globally .* window_size=\(4, 4\)'),
            (dict(target_generator=dict(type='PerViTCLIPTargetGenerator', checkpoint=path)),
             "must hold the weights of a CLIP with a Vision Transformer, 'visual.proj' among them")):
        with pytest.raises(UserError, match=message):
            milan(**options)
    with pytest.raises(UserError, match=r'have \(1, 49\) tokens, and the decoder has places for \(7, 7\)'):
        milan().loss(torch.rand(2, 1, 4, 196))
    coarse = dict(BACKBONE, arch={**TINY_ARCH, 'stem_channels': (4, 8)})
    with pytest.raises(UserError, match=r'importance must be \(B, H \* W\) = \(2, 49\), got \(2, 16\)'):
        milan(target_generator=dict(type='PerViTTargetGenerator', backbone=coarse, checkpoint=None)).loss(
            torch.rand(2, 1, 28, 28))


def test_received_attention_is_seen_in_a_compiled_backbone_too():
    """What was compiled before knows of no hook, so the modules run as they are meanwhile."""
    def compiled(*args):
        raise AssertionError('compiled code ran')

    backbone = PerViT(TINY_ARCH, img_size=16, out_type='raw').eval()
    backbone._compiled_call_impl = compiled
    with torch.no_grad(), received_attention(backbone) as seen:
        backbone(torch.rand(2, 3, 16, 16))
    torch.testing.assert_close(seen[0].sum(1), torch.ones(2))
    assert backbone._compiled_call_impl is compiled
