"""Recording: what is recorded is what the model computed with, for each kind of model."""
import pytest
import torch
from mmengine.registry import DefaultScope
from torch import nn

from pervit_mm.analysis import capture
from pervit_mm.analysis.recorders import find_recorders, number_windows
from pervit_mm.utils.errors import UserError

mmpretrain = pytest.importorskip('mmpretrain')
from mmpretrain.registry import MODELS  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')

VIT = dict(arch=dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=64), img_size=32, patch_size=8)
SWIN_ARCH = dict(embed_dims=16, depths=[2, 2], num_heads=[2, 4])
SWIN = dict(arch=SWIN_ARCH, out_indices=(1, ))
CONFIGS = {
    'PerViT': dict(type='PerViT', arch='nano', img_size=32),
    'PerViT in windows': dict(type='PerViT', arch='nano', img_size=32, window_size=5, global_attn_indexes=(1, )),
    'PerViT without Φp in windows': dict(type='PerViT', arch='nano', img_size=32, position_cfg=None, window_size=3),
    'PerViT without Φc': dict(type='PerViT', arch='nano', img_size=32, content=False),
    'ViT': dict(type='VisionTransformer', **VIT),
    'ViT without class token': dict(type='VisionTransformer', with_cls_token=False, out_type='avg_featmap', **VIT),
    'ViT with qk_scale': dict(type='VisionTransformer', **VIT),
    'DeiT': dict(type='DistilledVisionTransformer', **VIT),
    'BEiT': dict(type='BEiTViT', out_type='avg_featmap', **VIT),
    'BEiT scaled': dict(type='BEiTViT', out_type='avg_featmap', layer_scale_init_value=0.1, **VIT),
    'Swin, shifted': dict(type='SwinTransformer', img_size=64, window_size=4, **SWIN),
    'Swin, padded': dict(type='SwinTransformer', img_size=60, window_size=4, pad_small_map=True, **SWIN),
    'Swin V2': dict(type='SwinTransformerV2', img_size=64, window_size=[4, 4], pad_small_map=True, out_indices=(1, ),
                    arch=dict(SWIN_ARCH, extra_norm_every_n_blocks=0)),
}
MAPS = {
    'ConvNeXt': dict(type='ConvNeXt', arch=dict(depths=[1, 1], channels=[8, 16]), out_indices=1),
    'ResNet': dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
}


def build(config):
    """A backbone in float64 and eval mode, whose biases and scales are not zero or one."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(config)
    for parameter in model.parameters():
        if parameter.dim() < 2:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.double().eval()  # not chained: MMPretrain's eval() may return None
    return model


def images_for(config):
    size = config.get('img_size', 64)
    return torch.rand(2, config.get('in_channels', 3), size, size, dtype=torch.float64)


def projected(model):
    """What the output projection of each attention gets, by hooks of our own."""
    seen, handles = [], []
    for recorder in find_recorders(model):
        proj = getattr(recorder.block.attn, 'w_msa', recorder.block.attn).proj
        handles.append(proj.register_forward_pre_hook(lambda _, args: seen.append(args[0])))
    return seen, handles


@pytest.mark.parametrize('name', CONFIGS)
def test_weights_times_values_are_what_the_model_projects(name):
    """For every block, and the model's output is that without recording, to the bit."""
    model, x = build(CONFIGS[name]), images_for(CONFIGS[name])
    if 'qk_scale' in name:  # of MMPretrain, which divides by it
        from mmpretrain.models.utils.attention import partial, scaled_dot_product_attention_pyimpl
        for layer in model.layers:
            layer.attn.scaled_dot_product_attention = partial(scaled_dot_product_attention_pyimpl, scale=0.5)
    with torch.no_grad():
        expected = model(x)
        seen, handles = projected(model)
        with capture(model, qkv=True) as record:
            found = model(x)
    assert len(seen) == len(record) == len(find_recorders(model))
    for block, projection_input in zip(record, seen):
        mixed = (block.raw_attention @ block.raw_value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(mixed, projection_input, rtol=0, atol=1e-10)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize('name', CONFIGS)
def test_attention_is_among_the_tokens_of_the_grid(name):
    """Without class tokens and padding, rows sum to one, and q, k, v and output have the same tokens."""
    model, x = build(CONFIGS[name]), images_for(CONFIGS[name])
    with torch.no_grad(), capture(model, features=True, qkv=True) as record:
        model(x)
    for index, block in enumerate(record):
        n = block.hw_shape[0] * block.hw_shape[1]
        assert block.index == index
        assert block.attention.shape[-2:] == (n, n)
        torch.testing.assert_close(block.attention.sum(-1), torch.ones_like(block.attention[..., 0]))
        assert block.value.shape[2] == block.output.shape[1] == n
        if block.query is not None and not block.num_extra_tokens and block.window_tokens is None:
            assert block.key.shape == block.value.shape == block.query.shape


def test_swin_attention_on_the_grid_by_definition():
    """A shifted, padded block: each token of a window gets its row, found by rolling numbers by hand."""
    model, x = build(CONFIGS['Swin, padded']), images_for(CONFIGS['Swin, padded'])
    with torch.no_grad(), capture(model, qkv=True) as record:
        model(x)
    block = record.blocks[1]  # a 15 x 15 grid, padded to 16, windows of 4, shifted by 2
    weights = block.raw_attention.reshape(2, 16, 2, 16, 16)
    for number in (0, 6, 15):
        for place in (0, 7, 15):
            rows = [((number // 4 * 4 + p // 4 + 2) % 16, (number % 4 * 4 + p % 4 + 2) % 16) for p in range(16)]
            if max(rows[place]) > 14:
                continue
            expected = torch.zeros(2, 2, 15, 15, dtype=torch.float64)
            for p, (row, col) in enumerate(rows):
                if max(row, col) < 15:
                    expected[:, :, row, col] = weights[:, number, :, place, p]
            expected /= expected.sum((-2, -1), keepdim=True)
            query = rows[place][0] * 15 + rows[place][1]
            torch.testing.assert_close(block.attention[:, :, query], expected.flatten(2))


def test_windows_are_numbered_as_swin_cuts_them():
    """Against MMPretrain's own partition of a map that holds its token numbers."""
    from mmpretrain.models.utils import ShiftWindowMSA
    numbers = torch.arange(64.).reshape(1, 8, 8, 1).roll((-2, -2), dims=(1, 2))
    expected = ShiftWindowMSA.window_partition(numbers, 4).reshape(4, 16)
    assert torch.equal(number_windows((8, 8), 4, 2), expected.long())


@pytest.mark.parametrize('name', [name for name in CONFIGS if name != 'Swin V2'])
def test_branches_add_up_to_the_block(name):
    """Skip and branch of the second half sum to the output of the block; those of the first to what the FFN sees."""
    model, x = build(CONFIGS[name]), images_for(CONFIGS[name])
    middle = []
    for recorder in find_recorders(model):
        norm = getattr(recorder.block, 'norm2', None) or recorder.block.ln2
        norm.register_forward_pre_hook(lambda _, args: middle.append(args[0]))
    with torch.no_grad(), capture(model, attention=False, features=True, branches=True) as record:
        model(x)
    for block, seen in zip(record, middle):
        (skip, attended), (skip_ffn, fed) = block.branches
        torch.testing.assert_close(skip + attended, seen[:, block.num_extra_tokens:])
        torch.testing.assert_close(skip_ffn + fed, block.output)
        assert fed.abs().max() > 1e-3


@pytest.mark.parametrize('name', MAPS)
def test_maps_of_convolutional_networks_are_tokens(name):
    model, x = build(MAPS[name]), images_for(MAPS[name])
    with torch.no_grad(), capture(model, attention=False, features=True) as record:
        out = model(x)[-1]
    last = record.blocks[-1]
    tokens = last.output.transpose(1, 2).unflatten(2, last.hw_shape)
    if name == 'ResNet':
        assert torch.equal(tokens, out)
    else:  # ConvNeXt returns the mean of tokens, normed
        assert torch.equal(model.norm1(tokens.mean((-2, -1), keepdim=True)).flatten(1), out)
    with pytest.raises(UserError, match='no tokens that attend'), capture(model):
        pass


def test_each_is_called_as_soon_as_a_block_is_done():
    """So memory holds one block: when block i + 1 starts, block i has been handed over and nothing keeps it."""
    model, x, order = build(CONFIGS['PerViT']), images_for(CONFIGS['PerViT']), []
    for index, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda *_, index=index: order.append(('start', index)))

    def see(block):
        order.append(('done', block.index))
        return block.attention.shape

    with torch.no_grad(), capture(model, each=see) as record:
        model(x)
    assert order == [step for i in range(6) for step in (('start', i), ('done', i))]
    assert record.blocks == [(2, 4, 64, 64)] * 6


def state_of(model):
    """Hooks and instance attributes of all modules."""
    return [(len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m)),
             getattr(m, 'scaled_dot_product_attention', None)) for m in model.modules()]


@pytest.mark.parametrize('name', ['PerViT', 'ViT', 'BEiT', 'Swin, shifted'])
def test_a_model_is_left_as_it_was_also_after_an_exception(name):
    model, x = build(CONFIGS[name]), images_for(CONFIGS[name])
    before = state_of(model)
    with torch.no_grad(), capture(model, features=True, qkv=True, branches=True):
        assert state_of(model) != before
        model(x)
    assert state_of(model) == before
    error = UserError if name == 'PerViT' else RuntimeError  # PerViT checks its images itself
    with pytest.raises(error), torch.no_grad(), capture(model, branches=True):
        model(x[:, :1])
    assert state_of(model) == before


def test_classifiers_and_wrapped_models_are_recorded_as_their_backbones():
    class Classifier(nn.Module):

        def __init__(self):
            super().__init__()
            self.backbone = build(CONFIGS['PerViT'])

    class Wrapped(nn.Module):

        def __init__(self):
            super().__init__()
            self.module = Classifier()

    model = Wrapped()
    with torch.no_grad(), capture(model) as record:
        model.module.backbone(images_for(CONFIGS['PerViT']))
    assert len(record) == 6


def test_features_keep_their_gradient():
    model, x = build(CONFIGS['PerViT']), images_for(CONFIGS['PerViT']).requires_grad_()
    with capture(model, features=True) as record:
        model(x)
    record.blocks[0].output.sum().backward()
    assert x.grad.abs().sum() > 0
    assert not record.blocks[0].attention.requires_grad


def test_maps_of_pervit_within_windows():
    """Content, position and attention have rows that sum to one and stay in the window."""
    model, x = build(CONFIGS['PerViT in windows']), images_for(CONFIGS['PerViT in windows'])
    with torch.no_grad(), capture(model) as record:
        model(x)
    maps = record.blocks[0].maps()
    assert sorted(maps) == ['attention', 'content', 'position']
    for values in maps.values():
        torch.testing.assert_close(values.sum(-1), torch.ones_like(values[..., 0]))
        assert values[..., 0, 5:8].eq(0).all(), 'columns 5 to 7 of the first row are another window'


@pytest.mark.parametrize('name', ['PerViT', 'PerViT in windows', 'PerViT without Φc'])
def test_values_are_recorded_without_maps(name, monkeypatch):
    """Maps take memory that grows with the tokens squared."""
    model, images = build(CONFIGS[name]), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad(), capture(model, qkv=True) as expected:
        model(images)
    monkeypatch.setattr('pervit_mm.models.attention.PeripheralAttention.attention_maps', None)
    with torch.no_grad(), capture(model, attention=False, qkv=True) as found:
        model(images)
    for ours, theirs in zip(found.blocks, expected.blocks):
        torch.testing.assert_close(ours.value, theirs.value)
        if theirs.key is not None:
            torch.testing.assert_close(ours.key, theirs.key)


def test_mistakes():
    with pytest.raises(UserError, match='model must have one of the backbones .* got Linear'), capture(nn.Linear(1, 1)):
        pass
    model = build(CONFIGS['PerViT'])
    model.train()
    with pytest.raises(UserError, match='eval mode'), capture(model, branches=True):
        model(images_for(CONFIGS['PerViT']))
    swin = build(CONFIGS['Swin V2'])
    with pytest.raises(UserError, match='Swin V2'), capture(swin, branches=True):
        pass
    masked = build(dict(type='VisionTransformer', **VIT))
    masked.layers[0].register_forward_pre_hook(lambda _, args: (args[0][:, :5], ))
    with pytest.raises(UserError, match='on 4 tokens, which are no 4 x 4 grid'), capture(masked):
        masked(images_for(CONFIGS['ViT']))
