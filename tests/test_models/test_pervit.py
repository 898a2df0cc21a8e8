"""The backbone: structure, outputs, options, errors."""
import copy

import oracle
import pytest
import torch
from conftest import TINY_ARCH, naming, randomize
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from pervit_mm.models import PerViT, PerViTPeripheralPosition
from pervit_mm.ops import log_positions

SIZES = [(28, 28), (30, 17), (4, 33), (1, 1), (3, 4)]


def build(**kwargs):
    kwargs = {'img_size': 28, **kwargs}
    return randomize(PerViT(TINY_ARCH, **kwargs))


def check_gradients(model, state):
    """Compare the gradients with those of the oracle's float64 state."""
    for name, param in model.named_parameters():
        exact = state[name].grad
        tolerance = 2e-3 * exact.abs().max().item() + 1e-4
        torch.testing.assert_close(param.grad.double(), exact, atol=tolerance, rtol=1e-3, msg=naming(name))


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('training_bn', [False, True])
def test_outputs_and_gradients_equal_the_definition(size, training_bn):
    """Grids that are square, oblong, 1 x k and of one token, against the oracle."""
    model = build(out_indices=(0, 2), out_type='raw').train(training_bn)
    images = torch.randn(3, 3, *size)
    state = {k: v.detach().double().requires_grad_(True) for k, v in model.named_parameters()}
    state.update({k: v for k, v in model.named_buffers()})
    if training_bn and size in ((1, 1), (3, 4)):
        state = {k: v.clone() if not v.requires_grad else v for k, v in state.items()}
    expected = oracle.backbone(state, images, 2, out_indices=[0, 2], pretrain_hw=(7, 7), training_bn=training_bn)
    outs = model(images)
    loss = reference = 0
    for out, exp in zip(outs, expected):
        torch.testing.assert_close(out.double(), exp, atol=3e-5, rtol=1e-4)
        weight = torch.randn(out.shape)
        loss = loss + (out * weight).sum()
        reference = reference + (exp * weight).sum()
    loss.backward()
    reference.backward()
    check_gradients(model, state)


@pytest.mark.parametrize('size', [(28, 28), (44, 31), (13, 60), (9, 9)])
@pytest.mark.parametrize('global_blocks', [(), (1, )])
def test_windowed_outputs_and_gradients_equal_the_definition(size, global_blocks):
    model = build(window_size=4, global_attn_indexes=global_blocks, out_type='raw').eval()
    images = torch.randn(2, 3, *size)
    state = dict(model.state_dict())
    state.update({name: p.detach().double().requires_grad_() for name, p in model.named_parameters()})
    expected = oracle.backbone(state, images, 2, window=(4, 4), global_blocks=global_blocks, pretrain_hw=(7, 7))[0]
    with torch.no_grad():
        torch.testing.assert_close(model(images)[0].double(), expected, atol=3e-5, rtol=1e-4)
    out = model(images)[0]
    torch.testing.assert_close(out.double(), expected, atol=3e-5, rtol=1e-4)
    weight = torch.randn(out.shape)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    check_gradients(model, state)


def test_padding_of_a_batch_reaches_one_window_further_with_each_block():
    """A toolbox pads images to the largest of the batch. The blocks treat padding like any other part of an image."""
    images = torch.randn(1, 3, 16, 64, dtype=torch.float64)
    padded = torch.nn.functional.pad(images, (0, 32, 0, 0))
    model = build(window_size=4, out_indices=(0, 1, 2), out_type='featmap').eval().double()
    with torch.no_grad():
        for block, (alone, beside) in enumerate(zip(model(images), model(padded))):
            change = (alone - beside[..., :16]).abs().amax((0, 1, 2)).reshape(4, 4).amax(1)  # for each window
            unchanged = 3 - block
            assert float(change[:unchanged].max()) < 1e-12 and float(change[unchanged:].min()) > 1e-8, (block, change)


def test_window_defaults_to_the_pretraining_grid():
    model = build(window_size='pretrain')
    assert [block.window_size for block in model.blocks] == [(7, 7)] * 3
    assert model.position_grids((20, 30)) == [(7, 7)] * 3


@pytest.mark.parametrize('out_type, shape', [
    ('featmap', (0, 24, 7, 7)), ('raw', (0, 49, 24)), ('avg_featmap', (0, 24))])
@pytest.mark.parametrize('content', [True, False])
def test_an_empty_batch_gives_an_empty_output(out_type, shape, content):
    assert build(out_type=out_type, content=content).eval()(torch.zeros(0, 3, 28, 28))[0].shape == shape


def test_out_types_agree_and_attributes_are_right():
    images = torch.randn(2, 3, 26, 40)
    maps = build(out_indices=(-3, 1, 2), out_type='featmap').eval()
    assert maps.out_channels == (16, 24, 24) and maps.out_stride == 4 and maps.patch_resolution == (7, 7)
    outs = maps(images)
    assert isinstance(outs, tuple)
    assert [tuple(o.shape) for o in outs] == [(2, 16, 7, 10), (2, 24, 7, 10), (2, 24, 7, 10)]
    assert all(o.is_contiguous() for o in outs)
    raw = build(out_indices=(0, 1, 2), out_type='raw').eval()
    mean = build(out_indices=(0, 1, 2)).eval()
    for m in (raw, mean):
        m.load_state_dict(maps.state_dict())
    for a, b, c in zip(outs, raw(images), mean(images)):
        torch.testing.assert_close(a.flatten(2).transpose(1, 2), b)
        torch.testing.assert_close(a.mean((2, 3)), c)
    assert not any('norm0' in k or 'norm2' in k.split('.')[0] for k in build(final_norm=False).state_dict())


def test_other_packages_find_the_width_of_the_last_output_by_its_usual_names():
    """MMPretrain's HybridEmbed asks for ``num_features``; its multimodal models ask for ``embed_dims``."""
    embed = pytest.importorskip('mmpretrain.models.utils.embed')
    backbone = build(out_indices=(0, 1), out_type='featmap')
    hybrid = embed.HybridEmbed(backbone, img_size=28, feature_size=7, embed_dims=10)
    assert hybrid(torch.rand(2, 3, 28, 28)).shape == (2, 49, 10)
    assert backbone.embed_dims == backbone.num_features == backbone(torch.rand(1, 3, 28, 28))[-1].shape[1]
    assert backbone.num_extra_tokens == 0


def test_channels_last_images_give_the_same():
    model, images = build().eval(), torch.randn(2, 3, 28, 28)
    out = model(images.to(memory_format=torch.channels_last))[0]
    torch.testing.assert_close(out, model(images)[0], atol=1e-5, rtol=1e-4)


def test_pervit_is_found_from_every_scope():
    for scope in ('mmengine', 'mmpretrain', 'mmdet', 'mmseg'):
        init_default_scope(scope)
        for name in ('PerViT', 'pervit_mm.PerViT'):
            assert type(MODELS.build(dict(type=name, arch=TINY_ARCH, img_size=28))) is PerViT
    init_default_scope('mmpretrain')


def test_drop_path_rises_linearly():
    model = PerViT('tiny', drop_path_rate=0.22)
    rates = [getattr(block.drop_path, 'drop_prob', 0.) for block in model.blocks]
    assert rates == pytest.approx([0.02 * i for i in range(12)])
    assert isinstance(model.blocks[0].drop_path, nn.Identity)


@pytest.mark.parametrize('options', [
    {}, dict(window_size=3), dict(window_size=3, global_attn_indexes=(1, )), dict(frozen_stages=1)])
def test_checkpointing_recomputes_and_changes_nothing(options):
    images = torch.randn(2, 3, 28, 28)
    plain, recomputed = (build(drop_path_rate=0.3, with_cp=with_cp, **options) for with_cp in (False, True))
    passes = {}
    for model in (plain, recomputed):
        for block in model.blocks:
            block.register_forward_pre_hook(lambda *_, key=model: passes.update({key: passes.get(key, 0) + 1}))
        torch.manual_seed(3)
        model.train()(images)[0].square().sum().backward()
    # Frozen blocks have no backward, so they are not recomputed.
    trained = sum(any(p.requires_grad for p in block.parameters()) for block in plain.blocks)
    assert (passes[plain], passes[recomputed]) == (3, 3 + trained) and trained > 0
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters()):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4, msg=naming(name))


@pytest.mark.parametrize('room, calls', [(64 * 2**20, 1), (2 * 9**2 * 4 * 2, 3), (0, 6)])
def test_checkpointing_makes_small_log_positions_once_for_all_blocks(monkeypatch, room, calls):
    """Three blocks with windows of 3 x 3 tokens: all fit; two fit, and one is made twice; none fits."""
    made = []
    monkeypatch.setattr('pervit_mm.models.position.peripheral.log_positions',
                        lambda *args: made.append(args) or log_positions(*args))
    monkeypatch.setattr('pervit_mm.models.pervit.RECOMPUTED_BYTES', room)
    images = torch.randn(2, 3, 28, 28)
    plain, recomputed = (build(with_cp=with_cp, window_size=3).train() for with_cp in (False, True))
    plain(images)[0].square().sum().backward()
    made.clear()
    recomputed(images)[0].square().sum().backward()
    assert len(made) == calls
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters()):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4, msg=naming(name))


@pytest.mark.parametrize('kwargs', [
    dict(stem_cfg=dict(type='patchify')), dict(cpe=False), dict(position_cfg=None), dict(content=False),
    dict(qkv_bias=True), dict(position_cfg=dict(kernel_size=1)), dict(position_cfg=dict(norm=False)),
    dict(position_cfg=dict(type='PerViTEuclideanPosition')), dict(position_cfg=dict(type='PerViTRelativePositionBias')),
    dict(stem_cfg=dict(type='conv', norm_cfg=dict(type='GN', num_groups=2), act_cfg=dict(type='GELU'))),
    dict(in_channels=1), dict(window_size=3, global_attn_indexes=(0, )), dict(out_indices=(0, 1), final_norm=False),
    dict(out_indices=(0, )), dict(frozen_stages=0), dict(frozen_stages=1), dict(frozen_stages=2), dict(drop_rate=0.1)
])
def test_every_switch_trains_every_parameter(kwargs):
    """Every parameter that requires a gradient gets a finite one, as DDP needs it, and frozen parameters get none."""
    model = build(**kwargs).train()
    outs = model(torch.randn(2, kwargs.get('in_channels', 3), 21, 30))
    if any(p.requires_grad for p in model.parameters()):
        sum(out.square().sum() for out in outs).backward()
    for name, param in model.named_parameters():
        assert (param.grad is not None) == param.requires_grad, name
        assert param.grad is None or param.grad.isfinite().all(), name


def test_position_only_attention_has_no_queries():
    model = build(content=False)
    assert not any('qkv' in key for key in model.state_dict())
    assert model.blocks[0].attn.v.weight.shape == (16, 16)


@pytest.mark.parametrize('kind', ['PerViTPeripheralPosition', 'pervit_mm.PerViTPeripheralPosition',
                                  PerViTPeripheralPosition])
def test_distance_scale_reaches_the_module_however_it_is_named(kind):
    model = build(distance_scale='fixed', position_cfg=dict(type=kind))
    assert all(block.attn.position.distance_scale == 'fixed' for block in model.blocks)


@pytest.mark.parametrize('window', [None, (3, 4), (2, 3), (2, 2), (5, 5)])
@pytest.mark.parametrize('kwargs', [dict(), dict(content=False), dict(position_cfg=None)])
def test_maps_for_analysis_multiply_to_the_output(window, kwargs):
    """In float64. The 3 x 4 map consists of whole windows, cuts some windows, or is smaller than one."""
    attn = randomize(build(**kwargs)).double().eval().blocks[1].attn
    x, n = torch.randn(2, 12, 16, dtype=torch.float64), 12 if window is None else window[0] * window[1]
    log_position = None if attn.position is None else torch.rand(2, n, n, dtype=torch.float64).log()
    out, maps = attn.forward_with_maps(x, (3, 4), log_position, window)
    torch.testing.assert_close(out, attn(x, (3, 4), log_position, window), atol=1e-10, rtol=1e-10)
    assert {k: tuple(v.shape) for k, v in maps.items()} == dict(
        content=(2, 2, 12, 12), position=(2, 12, 12), attention=(2, 2, 12, 12))
    product = maps['content'] * maps['position']
    torch.testing.assert_close(maps['attention'], product / product.sum(-1, keepdim=True), atol=1e-12, rtol=1e-10)
    v = (attn.qkv(x).chunk(3, -1)[2] if attn.content else attn.v(x)).reshape(2, 12, 2, 8).transpose(1, 2)
    by_hand = attn.proj((maps['attention'] @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(by_hand, out, atol=1e-10, rtol=1e-10)


def test_frozen_stages_stay_frozen_in_training():
    model = build(frozen_stages=1, drop_rate=0.5, out_indices=(0, 1, 2))
    model.train()
    frozen = {n.split('.')[0] if not n.startswith('blocks') else '.'.join(n.split('.')[:2])
              for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {'stem', 'position_proj', 'blocks.0', 'blocks.1', 'norm0', 'norm1'}
    assert not model.stem.training and not model.blocks[1].training and model.blocks[2].training
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(4, 3, 28, 28))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # also the running statistics
    assert model.train() is model


def test_blocks_behind_the_last_output_are_neither_run_nor_trained():
    model = build(out_indices=(0, ))
    model.blocks[1].register_forward_hook(lambda *a: pytest.fail('block 1 was run'))
    model(torch.randn(1, 3, 28, 28))
    assert all(p.requires_grad == (i == 0) for i in range(3) for p in model.blocks[i].parameters())


def test_norm_eval_stops_batch_statistics_alone():
    model = build(norm_eval=True).train()
    assert not model.stem.layers[0].norm.training and model.blocks[0].training
    assert model.stem.layers[0].norm.weight.requires_grad


def test_every_parameter_has_its_layer_depth():
    model = build(out_indices=(0, 2))
    depths = {name: model.get_layer_depth('backbone.' + name, 'backbone.') for name, _ in model.named_parameters()}
    assert {n for _, n in depths.values()} == {5}
    for name, (depth, _) in depths.items():
        first = name.split('.')[0]
        expected = {'stem': 0, 'position_proj': 0}.get(first, 4)
        if first == 'blocks':
            expected = int(name.split('.')[1]) + 1
        assert depth == expected, name
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (4, 5)


@pytest.mark.parametrize('kwargs, error, message', [
    (dict(arch='huge'), ValueError, r"arch must be one of .*'tiny'.* got 'huge'"),
    (dict(arch=3), TypeError, 'arch must be a str or a dict, got int'),
    (dict(arch={**TINY_ARCH, 'width': 3}), ValueError, r"unknown keys \['width'\]"),
    (dict(arch=dict(depths=(1, ))), ValueError, r"misses \['embed_dims', 'num_heads', 'stem_channels'\]"),
    (dict(arch={**TINY_ARCH, 'embed_dims': (16, 25)}), ValueError,
     'multiple of num_heads=2, got 25; the nearest are 24 and 26'),
    (dict(arch={**TINY_ARCH, 'depths': (1, )}), ValueError, r'one entry for each stage, got \(16, 24\) and \(1,\)'),
    (dict(arch={**TINY_ARCH, 'depths': (1, 0)}), ValueError, r"arch\['depths'\] must be a sequence of positive"),
    (dict(arch={**TINY_ARCH, 'num_heads': 0}), ValueError, 'positive integer, got 0'),
    (dict(out_indices=3), ValueError, r'out_indices must be in \[-3, 2\] for 3 blocks, got 3'),
    (dict(out_indices=(-4, )), ValueError, 'got -4'),
    (dict(out_indices=(1, 0)), ValueError, 'ascending without repetition'),
    (dict(out_indices=()), ValueError, 'at least one block'),
    (dict(out_indices='all'), TypeError, "got 'all'"),
    (dict(window_size=99), ValueError, r'window_size=99 is in tokens, and log Φp of 99 x 99 of them takes 0.4 GB for '
     'each head; at most 4096'),
    (dict(window_size=(64, 65)), ValueError, '64 x 65'),
    (dict(norm_cfg=dict(type='None')), ValueError, r"norm_cfg\['type'\] must be a registered model, got 'None'"),
    (dict(out_type='cls_token'), ValueError, "out_type must be one of .* got 'cls_token'"),
    (dict(drop_path_rate=1.), ValueError, r'drop_path_rate must be in \[0, 1\), got 1.0'),
    (dict(drop_rate=-0.1), ValueError, 'drop_rate'),
    (dict(frozen_stages=3), ValueError, r'frozen_stages must be in \[-1, 2\], got 3'),
    (dict(window_size=0), ValueError, 'window_size must be a positive int'),
    (dict(window_size='auto'), ValueError, "window_size must be 'pretrain', a positive .* or None, got 'auto'"),
    (dict(global_attn_indexes=(0, )), ValueError, 'needs a window_size'),
    (dict(window_size=4, global_attn_indexes=(3, )), ValueError, 'global_attn_indexes must be in'),
    (dict(stem_cfg=dict(type='pool')), ValueError, r"stem_cfg\['type'\] must be one of .* got 'pool'"),
    (dict(stem_cfg=dict(type='patchify', norm_cfg=None)), ValueError, 'may have'),
    (dict(content=False, position_cfg=None), ValueError, 'content=False .* needs a position_cfg'),
    (dict(img_size=(28, )), ValueError, 'img_size'),
    (dict(position_cfg=dict(type='NoSuchPosition')), KeyError, 'NoSuchPosition'),
    (dict(position_cfg='none'), TypeError, "position_cfg must be a dict .* got 'none'"),
    (dict(stem_cfg='conv'), TypeError, "stem_cfg must be a dict .* got 'conv'"),
    (dict(in_channels=0), ValueError, 'in_channels must be a positive integer, got 0'),
    (dict(drop_path_rate='0.1'), ValueError, r"drop_path_rate must be in \[0, 1\), got '0.1'"),
    (dict(position_cache_bytes=None), ValueError, 'position_cache_bytes must be .* got None'),
    (dict(arch={**TINY_ARCH, 'mlp_ratio': float('nan')}), ValueError, 'mlp_ratio'),
    (dict(distance_scale='fixed', position_cfg=dict(type='PerViTRelativePositionBias')), ValueError,
     "distance_scale='fixed' is not for position_cfg of type 'PerViTRelativePositionBias'"),
    (dict(embed_dim=3), TypeError, 'embed_dim'),
])
def test_mistakes_are_named(kwargs, error, message):
    with pytest.raises(error, match=message):
        PerViT(**{'arch': TINY_ARCH, 'img_size': 28, **kwargs})


@pytest.mark.parametrize('images, error, message', [
    (torch.ones(1, 28, 28), ValueError, r'images must be \(B, 3, h, w\), .* in_channels .* is 3, got \(1, 28, 28\)'),
    (torch.ones(2, 1, 28, 28), ValueError, r'got \(2, 1, 28, 28\): give such images, or build the backbone with'),
    (torch.ones(2, 28, 28, 3), ValueError, r'got \(2, 28, 28, 3\)'),
    (torch.ones(2, 3, 28, 28).byte(), ValueError, 'images must be in floating point, got torch.uint8: normalize'),
    ([[1.]], TypeError, r'images must be a tensor \(B, 3, h, w\), got list'),
])
def test_what_is_no_batch_of_images_is_named(images, error, message):
    with pytest.raises(error, match=message):
        build()(images)


def test_arguments_are_not_changed():
    kwargs = dict(out_indices=[-1], stem_cfg=dict(type='conv'), position_cfg=dict(kernel_size=3), init_cfg=[],
                  arch=dict(TINY_ARCH))
    before = copy.deepcopy(kwargs)
    PerViT(img_size=28, **kwargs)
    assert kwargs == before


@pytest.mark.parametrize('shapes', [None, [(7, 7), (5, 9)]])
def test_a_deployed_model_gives_the_same_outputs(shapes):
    model = build(out_indices=(1, 2), window_size=None).eval()
    deployed = copy.deepcopy(model)
    deployed.switch_to_deploy(shapes)
    deployed.switch_to_deploy()  # a second call does nothing
    images = torch.randn(2, 3, 28, 28)
    for a, b in zip(model(images), deployed(images)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert not any('position.conv1' in k or 'norm.running' in k for k in deployed.state_dict())
    other = torch.randn(2, 3, 20, 36)
    if shapes is None:
        with pytest.raises(ValueError, match='deployed for the token grids 7x7 and got 5x9; call switch_to_deploy'):
            deployed(other)
    else:
        torch.testing.assert_close(model(other)[1], deployed(other)[1], atol=1e-5, rtol=1e-5)


def test_nano_has_its_stated_size():
    model = PerViT('nano', img_size=28, in_channels=1)
    assert model.out_stride == 4 and model.patch_resolution == (7, 7) and model.out_channels == (96, )
    assert 480_000 < sum(p.numel() for p in model.parameters()) < 500_000


@pytest.mark.parametrize('kwargs', [dict(), dict(position_cfg=dict(type='PerViTEuclideanPosition'))])
def test_the_meta_device_gives_the_shapes(kwargs):
    """Nothing is computed there. Tools use it for the shapes of models that are too large to build."""
    with torch.device('meta'):
        model = PerViT(TINY_ARCH, img_size=28, out_type='featmap', **kwargs)
        with torch.no_grad():
            out = model(torch.empty(2, 3, 40, 28))[0]
    assert out.is_meta and out.shape == (2, 24, 10, 7)
