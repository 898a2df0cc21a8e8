"""PerViT as a model of timm, and safetensors, against MMPretrain's classifier and our own backbone."""
import subprocess
import sys
from functools import partial

import pytest
import torch
from conftest import randomize
from mmengine.runner import CheckpointLoader
from page_code import run_section
from torch.testing import assert_close

timm = pytest.importorskip('timm', reason='timm is not installed: make setup-test')
from timm.optim import param_groups_layer_decay  # noqa: E402

from pervit_mm.apis.building import build_model  # noqa: E402
from pervit_mm.apis.named_models import resolve_model  # noqa: E402
from pervit_mm.apis.timm import TimmPerViT  # noqa: E402
from pervit_mm.checkpoints import read_classifier  # noqa: E402
from pervit_mm.engine.optimizers import PerViTLayerDecayConstructor  # noqa: E402
from pervit_mm.models import PerViT  # noqa: E402
from pervit_mm.utils.errors import UserError  # noqa: E402

SIZES = ['pervit_medium', 'pervit_nano', 'pervit_small', 'pervit_tiny']
create = partial(timm.create_model, 'pervit_nano')
small = partial(TimmPerViT, dict(embed_dims=(16, 24), depths=(2, 1), num_heads=2, stem_channels=(8, )), img_size=28)


@pytest.fixture(scope='module')
def published():
    """Config of the published nano, and its weights as MMPretrain names them."""
    cfg, weights = resolve_model('pervit_nano_fashion-mnist')
    return cfg, read_classifier(weights)


@pytest.fixture(scope='module')
def nano():
    return create(pretrained=True).eval()


def images(channels=1, side=28):
    return torch.randn(2, channels, side, side)


def test_the_names(published, nano):
    assert timm.list_models('pervit*') == SIZES
    assert timm.list_pretrained('pervit*') == ['pervit_nano.fashion_mnist']
    cfg, data = published[0], timm.data.resolve_model_data_config(nano)
    scaled = {key: [255 * value for value in data[key]] for key in ('mean', 'std')}
    assert_close(scaled, {key: list(cfg.data_preprocessor[key]) for key in ('mean', 'std')})
    assert data['input_size'] == (cfg.model.backbone.in_channels, *2 * [cfg.model.backbone.img_size])
    assert nano.num_classes == nano.pretrained_cfg['num_classes'] == cfg.model.head.num_classes
    for name in SIZES:
        with torch.device('meta'):
            model = timm.create_model(name)
        assert model.pretrained_cfg['input_size'][0] == model.in_chans
        assert model.get_submodule(model.pretrained_cfg['first_conv']).in_channels == model.in_chans
        assert model.get_submodule(model.pretrained_cfg['classifier']).out_features == model.num_classes


def test_logits_are_those_of_mmpretrain_s_classifier(published, nano):
    pytest.importorskip('mmpretrain', reason='MMPretrain is not installed: make setup-test')
    classifier, x = build_model(*published), images()
    with torch.no_grad():
        logits = nano(x)
        assert_close(logits, classifier(x), rtol=0, atol=1e-5)
        assert_close(nano.forward_head(nano.forward_features(x), pre_logits=True), classifier.extract_feat(x)[-1],
                     rtol=0, atol=1e-5)
        dense = create(pretrained=True, global_pool='').eval()(x)
    assert dense.shape == (2, 10, 7, 7)
    assert_close(dense.mean((2, 3)), logits, rtol=0, atol=1e-5)
    assert nano.state_dict().keys() == classifier.state_dict().keys() == published[1].keys()


@pytest.mark.parametrize('norm', [False, True])
def test_levels_are_the_maps_of_the_backbone(published, nano, norm):
    x, out_indices = images(side=30), (0, 2, 5)
    backbone = PerViT('nano', 28, 1, out_indices=out_indices, out_type='featmap', final_norm=False).eval()
    own = {key.removeprefix('backbone.'): value for key, value in published[1].items() if key.startswith('backbone.')}
    backbone.load_state_dict({key: own[key] for key in backbone.state_dict()})
    with torch.no_grad():
        expected = list(backbone(x))
        if norm:
            expected[-1] = nano.backbone.norm5(expected[-1].movedim(1, -1)).movedim(-1, 1)
        final, levels = nano.forward_intermediates(x, out_indices, norm=norm)
        tokens = nano.forward_intermediates(x, out_indices, norm=norm, output_fmt='NLC', intermediates_only=True)
        assert_close(final, nano.forward_features(x), rtol=0, atol=0)
    for maps in (levels, [t.transpose(1, 2).unflatten(2, expected[0].shape[2:]) for t in tokens]):
        assert_close(maps, expected, rtol=0, atol=1e-5)
    if not norm:
        features = create(pretrained=True, features_only=True, out_indices=out_indices).eval()
        assert features.feature_info.channels() == list(backbone.out_channels)
        with torch.no_grad():
            assert_close(features(x), expected, rtol=0, atol=1e-5)


def test_levels_end_where_they_are_needed():
    model, x = randomize(small()).eval(), images(3)
    cut = small().eval()
    cut.load_state_dict(model.state_dict())
    assert cut.prune_intermediate_layers([0]) == [0]
    names = [name for name, _ in cut.named_parameters()]
    assert not [name for name in names if name.startswith(('backbone.blocks.1', 'backbone.norm', 'head'))]
    with torch.no_grad():
        level = model.forward_intermediates(x, [0], stop_early=True)
        assert_close(level[0], level[1][0], rtol=0, atol=0)
        for maps in ([cut.forward_features(x)], cut.forward_intermediates(x, intermediates_only=True)):
            assert_close(maps, level[1], rtol=0, atol=0)
    cut.train().forward_features(x).sum().backward()
    assert not [name for name, param in cut.named_parameters() if param.grad is None]


def test_other_classes_and_channels(nano):
    """A gray image in three channels gives what one channel gave, and only the classifier is new."""
    x = images()
    colors = create(pretrained=True, in_chans=3).eval()
    classes = create(pretrained=True, num_classes=5).eval()
    with torch.no_grad():
        assert_close(colors(x.expand(-1, 3, -1, -1)), nano(x), rtol=0, atol=1e-4)
        assert classes(x).shape == (2, 5)
        assert_close(classes.forward_features(x), nano.forward_features(x), rtol=0, atol=0)
        classes.reset_classifier(0)
        assert_close(classes(x), nano.forward_features(x).mean((2, 3)), rtol=0, atol=1e-5)
    assert isinstance(classes.get_classifier(), torch.nn.Identity)


def test_image_size(nano):
    """It names the grid of Φp, and doesn't change Φp with distance_scale='grid'."""
    large, x = create(pretrained=True, img_size=56).eval(), images(side=56)
    assert large.backbone.patch_resolution == (14, 14)
    with torch.no_grad():
        assert_close(large(x), nano(x), rtol=0, atol=1e-5)
    create(pretrained=True, distance_scale='fixed')
    for options in (dict(distance_scale='fixed'), dict(window_size='pretrain')):
        with pytest.raises(UserError, match=r'img_size must be \(28, 28\) with pretrained=True'):
            create(pretrained=True, img_size=56, **options)


@pytest.mark.parametrize('call, message', [
    (lambda: timm.create_model('pervit_small', pretrained=True), 'no weights of pervit_small are published, only of '
     'pervit_nano. .* checkpoint_path'),
    (lambda: small(out_type='raw'), "out_type='raw' is not for a model of timm"),
    (lambda: small(in_channels=1), 'in_channels=1 .* take in_chans'),
    (lambda: small(global_pool='token'), "global_pool must be 'avg' or '', .* got 'token'"),
    (lambda: small(num_classes=-1), 'num_classes must be an integer of at least 0, got -1'),
    (lambda: small().forward_intermediates(images(3), 4), 'from 1 to 3, got 4'),
    (lambda: small().forward_intermediates(images(3), [3]), r'indices must be in \[-3, 2\]'),
    (lambda: small().forward_intermediates(images(3), output_fmt='NHWC'), "'NCHW' or 'NLC', got 'NHWC'"),
])
def test_mistakes(call, message):
    with pytest.raises(UserError, match=message):
        call()
    with pytest.raises(TypeError, match='window_sise'):
        small(window_sise=7)


@pytest.mark.parametrize('coarse', [False, True])
def test_layer_decay(coarse):
    """Rates are those of PerViTLayerDecayConstructor; a coarse group is a stage."""
    model = small()
    by_timm = {id(param): group['lr_scale'] for group in param_groups_layer_decay(model, layer_decay=0.5)
               for param in group['params']}
    ours = PerViTLayerDecayConstructor(
        dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.)), dict(layer_decay_rate=0.5))(model)
    expected = {id(param): group['lr_scale'] for group in ours.optimizer.param_groups for param in group['params']}
    assert by_timm == expected and set(expected.values()) == {1., .5, .25, .125, .0625}
    if coarse:
        groups = timm.models.group_parameters(model, model.group_matcher(coarse=True), reverse=True)
        assert {name.split('.')[2]: group for name, group in groups.items() if '.blocks.' in name} == {
            '0': 1, '1': 1, '2': 2}


def test_checkpointing_keeps_the_gradients():
    x, grads = images(3), []
    model = randomize(small())
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        grads.append([param.grad.clone() for param in model.parameters()])
    assert_close(*grads)


def test_dropout_rates():
    model = small(drop_rate=0.3, proj_drop_rate=0.2, drop_path_rate=0.1)
    assert model.head['drop'].p == 0.3
    assert model.backbone.blocks[2].ffn.drop.p == 0.2
    assert model.backbone.blocks[2].drop_path.drop_prob == 0.1


def test_without_timm_the_model_is_there():
    code = ("import sys; sys.modules['timm'] = None; from pervit_mm.apis.timm import TimmPerViT; import torch\n"
            "print(*TimmPerViT('nano', num_classes=3)(torch.rand(2, 3, 32, 32)).shape)")
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ['2', '3']


def test_the_page(tmp_path, monkeypatch, nano):
    """The code of docs/other_libraries.md about timm and safetensors."""
    monkeypatch.chdir(tmp_path)
    create_it, features, optimizer = run_section('other_libraries.md', 'timm')
    assert create_it['logits'].shape == (1, 10)
    assert features['channels'] == [m.shape[1] for m in features['maps']] == [80, 80, 96]
    assert features['strides'] == [4] * 3 and len(features['last_two']) == 2
    scales = {group['lr_scale'] for group in optimizer['optimizer'].param_groups}
    assert_close(sorted(scales), [0.8**i for i in range(7, -1, -1)])

    _, read = run_section('other_libraries.md', 'safetensors')
    x = images()
    with torch.no_grad():
        assert_close(read['model'](x), nano(x), rtol=0, atol=0)
    assert_close(read_classifier('pervit_nano.pth'), dict(nano.state_dict()), rtol=0, atol=0)
    assert_close(CheckpointLoader.load_checkpoint('pervit_nano.safetensors'), read_classifier('pervit_nano.pth'))
    backbone = PerViT('nano', 28, 1, init_cfg=dict(
        type='Pretrained', checkpoint='pervit_nano.safetensors', prefix='backbone.'))
    backbone.init_weights()
    assert_close(dict(backbone.state_dict()), dict(nano.backbone.state_dict()), rtol=0, atol=0)
