"""The feature pyramid: each level against plain torch."""
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_ARCH, randomize

from pervit_mm.models import PerViT, PerViTFeaturePyramid, PerViTLayerNorm2d


def norm(x, layer):
    """LayerNorm over channels by its definition."""
    centered = x - x.mean(1, keepdim=True)
    x = centered / (centered.square().mean(1, keepdim=True) + 1e-6).sqrt()
    return x * layer.weight[:, None, None] + layer.bias[:, None, None]


def head(x, layers):
    """1 x 1 convolution, norm, 3 x 3 convolution, norm."""
    x = norm(F.conv2d(x, layers[0].weight), layers[1])
    return norm(F.conv2d(x, layers[2].weight, padding=1), layers[3])


def upsample(x, layer):
    """Transposed convolution of stride 2 without overlap: each pixel becomes 2 x 2."""
    b, _, h, w = x.shape
    out = torch.einsum('bchw,cokl->bohkwl', x, layer.weight).reshape(b, -1, 2 * h, 2 * w)
    return out + layer.bias[:, None, None]


def test_layer_norm_is_mmpretrains():
    mmpretrain_norm = pytest.importorskip('mmpretrain.models.utils.norm')
    ours, theirs = PerViTLayerNorm2d(6), mmpretrain_norm.LayerNorm2d(6, eps=1e-6)
    randomize(ours)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 3, 5)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-5)


def test_every_level_equals_plain_torch():
    neck = randomize(PerViTFeaturePyramid(8, 6, num_outs=5)).double()
    x = torch.randn(2, 8, 6, 4, dtype=torch.float64)
    outs = neck((torch.randn(2, 3, 6, 4), x))  # only the last map is used
    four, eight, sixteen, thirty_two = neck.levels
    up = F.gelu(norm(upsample(x, four[0]), four[1]))
    expected = [
        head(upsample(up, four[3]), four[4:]),
        head(upsample(x, eight[0]), eight[1:]),
        head(x, sixteen),
        head(x.reshape(2, 8, 3, 2, 2, 2).amax((3, 5)), thirty_two[1:]),
    ]
    expected.append(expected[-1][..., ::2, ::2])
    assert len(outs) == 5
    for out, exp in zip(outs, expected):
        torch.testing.assert_close(out, exp)
        assert out.is_contiguous()


def test_levels_have_the_given_order_and_strides():
    neck = PerViTFeaturePyramid(8, 4, in_stride=4, out_strides=(16, 2, 4, 32))
    outs = neck((torch.randn(1, 8, 16, 24), ))  # 64 x 96 pixels
    assert [tuple(out.shape[2:]) for out in outs] == [(4, 6), (32, 48), (16, 24), (2, 3)]


@pytest.mark.parametrize('out_strides, coarsest', [((16, 8, 4), 0), ((8, 16, 4), 1), ((4, 16, 16), 2)])
def test_further_levels_go_on_from_the_coarsest(out_strides, coarsest):
    """The coarsest level may be at any place. If two levels have the same stride, it is the later one."""
    neck = PerViTFeaturePyramid(8, 4, in_stride=4, out_strides=out_strides, num_outs=5)
    outs = neck((torch.randn(1, 8, 16, 32), ))  # 64 x 128 pixels
    assert [(64 // out.shape[2], 128 // out.shape[3]) for out in outs] == [(s, s) for s in (*out_strides, 32, 64)]
    assert torch.equal(outs[3], outs[coarsest][..., ::2, ::2])
    assert torch.equal(outs[4], outs[coarsest][..., ::4, ::4])


def test_odd_and_tiny_maps_give_whole_levels():
    neck = PerViTFeaturePyramid(8, 4, num_outs=6)
    assert [tuple(out.shape[2:]) for out in neck((torch.randn(1, 8, 3, 1), ))] == [
        (12, 4), (6, 2), (3, 1), (2, 1), (1, 1), (1, 1)]


def test_multi_level_feeds_each_level_by_its_own_map():
    neck = PerViTFeaturePyramid((8, 10, 12), 4, out_strides=(8, 16, 32))
    maps = [torch.randn(1, c, 4, 4, requires_grad=True) for c in (8, 10, 12)]
    outs = neck(tuple(maps))
    assert [tuple(out.shape[2:]) for out in outs] == [(8, 8), (4, 4), (2, 2)]
    for i, out in enumerate(outs):
        grads = torch.autograd.grad(out.square().sum(), maps, allow_unused=True, retain_graph=True)
        assert [grad is not None for grad in grads] == [j == i for j in range(3)]
    with pytest.raises(ValueError, match='built for 3 maps .* got 2'):
        neck(tuple(maps[:2]))


def test_the_pyramid_takes_the_maps_of_the_backbone():
    backbone = PerViT(TINY_ARCH, img_size=28, out_indices=(0, 1, 2), out_type='featmap', window_size='pretrain')
    neck = PerViTFeaturePyramid(backbone.out_channels, 8, in_stride=backbone.out_stride, out_strides=(4, 8, 16))
    outs = neck(backbone(torch.randn(2, 3, 48, 64)))
    assert [tuple(out.shape) for out in outs] == [(2, 8, 12, 16), (2, 8, 6, 8), (2, 8, 3, 4)]
    sum(out.square().sum() for out in outs).backward()
    assert all(p.grad is not None for p in (*backbone.parameters(), *neck.parameters()))


def test_norm_cfg_replaces_every_norm():
    neck = PerViTFeaturePyramid(8, 4, norm_cfg=dict(type='GN', num_groups=2))
    assert sum(isinstance(m, torch.nn.GroupNorm) for m in neck.modules()) == 9


@pytest.mark.parametrize('kwargs, message', [
    (dict(out_strides=(4, 12)), 'out_strides must be in_stride=16 times or divided by a power of two, got 12'),
    (dict(out_strides=()), r'out_strides of PerViTFeaturePyramid must be positive integers, got \(\)'),
    (dict(in_channels=(8, 8)), r'in_channels must be one number, or one for each of out_strides=.*, got \(8, 8\)'),
    (dict(in_channels=0), 'in_channels of PerViTFeaturePyramid must be positive integers'),
    (dict(num_outs=3), 'num_outs must be at least the number of out_strides, 4, got 3'),
])
def test_mistakes_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PerViTFeaturePyramid(**{'in_channels': 8, 'out_channels': 4, **kwargs})
