"""The study of a model against a plain recording of all images at once."""
import numpy as np
import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from pervit_mm.analysis import (
    CKAMatrix,
    aligned_map,
    attention_entropy,
    attention_rollout,
    capture,
    effective_receptive_field,
    position_impact,
    ring_shares,
    rollout_map,
    skip_branch_ratio,
    study_model,
    token_localization,
    token_uniformity,
)
from pervit_mm.analysis import plan as plan_module
from pervit_mm.analysis.plan import Plan, default_blocks
from pervit_mm.models import PerViT
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')

SIDE = 20  # 5 x 5 tokens
COUNT = 9


def pervit(**options):
    return randomize(PerViT(TINY_ARCH, img_size=SIDE, **options)).eval()


def of_mmpretrain(kind, **options):
    pytest.importorskip('mmpretrain')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = randomize(MODELS.build(dict(type=kind, **options)))
    model.eval()  # not chained: it may return None
    return model


@pytest.fixture(scope='module')
def images():
    return torch.randn(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope='module')
def model():
    return pervit()


@pytest.fixture(scope='module')
def blocks(model, images):
    """Records of one forward of all images."""
    with torch.no_grad(), capture(model, features=True, branches=True) as record:
        model(images)
    return record.blocks


@pytest.fixture
def cut(monkeypatch):
    """Nine images in batches of 5 and 4 for CKA, of which three run at once."""
    monkeypatch.setattr(plan_module, 'CKA_IMAGES', 4)
    monkeypatch.setattr(plan_module, 'MOST_IMAGES', 3)


def distance(rows, hw_shape):
    """Mean distance in tokens by the definition, ``(..., N, N)`` to ``(...)``."""
    places = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float64) for side in hw_shape))
    rows = rows.double() / rows.double().sum(-1, keepdim=True)
    return (rows * torch.cdist(places, places)).sum(-1).mean(-1)


def close(found, expected):
    torch.testing.assert_close(found.double(), expected.double(), atol=2e-5, rtol=2e-4)


def check_means(study, blocks):
    """Every mean against the records of all images."""
    assert study.blocks == len(blocks) and study.grids == [block.hw_shape for block in blocks]
    for i, block in enumerate(blocks):
        grid, edges = block.hw_shape, tuple(edge * block.hw_shape[0] / 14 for edge in (1.5, 3.5, 6.5))
        assert study.heads[i] == block.attention.shape[1]
        assert study.edges[i] == pytest.approx(edges)
        factors = dict(attention=block.attention)
        if block.has_position:
            factors.update(content=block.scores.softmax(-1), position=block.log_position.exp()[None])
        for name, maps in factors.items():
            close(study.distance[name][i], distance(maps, grid).mean(0))
            close(study.rings[name][i], ring_shares(maps, grid, edges).mean(0))
            if name != 'content':
                close(study.aligned[name][i], aligned_map(maps, grid).mean(0))
        close(study.entropy[i], attention_entropy(block.attention, grid).mean(0))
        for name, value in position_impact(block.log_position, block.scores).items() if block.has_position else ():
            close(study.impact[name][i], value.mean(0))
        assert study.norms[i] == pytest.approx([skip_branch_ratio(*pair).mean().item() for pair in block.branches],
                                               rel=1e-4)
        assert study.uniformity[i] == pytest.approx(token_uniformity(block.output).mean().item(), rel=1e-4)


def test_means_are_those_of_all_images_at_once(model, images, blocks):
    study = study_model(model, images)
    assert study.images == COUNT and [len(gram[0]) for gram in study.grams] == [COUNT]
    check_means(study, blocks)
    # One batch gives CKA of all images.
    close(study.cka, CKAMatrix().update([block.output for block in blocks]).result())


def test_means_do_not_depend_on_the_batches(model, images, blocks, cut):
    study = study_model(model, images)
    assert [len(gram[0]) for gram in study.grams] == [5, 4]
    check_means(study, blocks)
    cka = CKAMatrix()
    for part in (slice(0, 5), slice(5, 9)):
        cka.update([block.output[part] for block in blocks])
    close(study.cka, cka.result())


def test_means_do_not_depend_on_the_order(model, images, blocks, cut):
    for order in (torch.arange(COUNT).flip(0), torch.tensor([4, 0, 8, 2, 6, 1, 3, 5, 7])):
        check_means(study_model(model, images[order]), blocks)


@pytest.mark.parametrize('shown', [1, 6, 50])
def test_pictures_are_of_the_first_images(model, images, blocks, cut, shown):
    study = study_model(model, images, shown, shown_blocks=[2, 0])
    assert set(study.maps) == {0, 2}
    for index, maps in study.maps.items():
        block = blocks[index]
        close(maps['attention'], block.attention[:shown])
        close(maps['content'], block.scores.softmax(-1)[:shown])
        close(maps['position'], block.log_position.exp())
    rollout = rollout_map(attention_rollout([block.attention for block in blocks]))[:shown]
    close(study.rollout, rollout.unflatten(1, (5, 5)))


def test_localization_and_receptive_field_take_all_images(model, images, blocks, cut):
    study = study_model(model, images)
    close(study.localization, token_localization(blocks[-1].output, images, (5, 5)))
    close(study.receptive_field, effective_receptive_field(model, images))


def test_the_model_stays_as_it_was(model, images):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    study_model(model, images)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize('largest', [1, 5 * 2 * 25**2])
@pytest.mark.parametrize('count', [1, 3, 4, 7, 8, COUNT])
def test_batches_are_large_enough_for_cka_and_progress_is_told(model, images, monkeypatch, largest, count):
    monkeypatch.setattr(plan_module, 'MAP_VALUES', largest)
    monkeypatch.setattr(plan_module, 'CKA_IMAGES', 5)
    seen = []
    study = study_model(model, images[:count], shown=1, progress=lambda: seen.append(1))
    sizes = [len(gram[0]) for gram in study.grams]
    assert sum(sizes) == (count if count >= 4 else 0) and all(size >= 4 for size in sizes)
    assert len(sizes) == (count // 5 or 1) if count >= 4 else not sizes, 'whatever fits into memory'
    assert len(seen) == Plan(model, images[:count]).steps == max(1, len(sizes)) + 2


def test_few_images_have_all_but_cka(model, images, blocks):
    study = study_model(model, images[:3])
    reason = 'CKA needs at least 4 images, and there are 3.'
    assert study.skipped == dict(cka=reason, localization=reason)
    assert study.cka is None and study.localization is None and not study.grams
    with torch.no_grad(), capture(model, features=True, branches=True) as record:
        model(images[:3])
    check_means(study, record.blocks)


def test_chosen_edges_are_of_all_blocks(model, images, blocks):
    study = study_model(model, images, edges=[1, 2.5])
    assert study.edges == [(1, 2.5)] * 3
    for shares, block, uniform in zip(study.rings['attention'], blocks, study.uniform['rings']):
        close(shares, ring_shares(block.attention, (5, 5), (1, 2.5)).mean(0))
        close(uniform, ring_shares(torch.ones(25, 25), (5, 5), (1, 2.5)))
    assert study.uniform['distance'] == pytest.approx([distance(torch.ones(25, 25), (5, 5)).item()] * 3)


def test_without_position_there_is_one_reason(images):
    model = pervit(position_cfg=None)
    study = study_model(model, images)
    assert study.skipped == dict(position='This PerViT has no Φp (position_cfg=None).')
    assert not study.impact and [set(x) for x in (study.distance, study.rings, study.aligned)] == [{'attention'}] * 3
    assert all(set(maps) == {'attention'} for maps in study.maps.values())
    with torch.no_grad(), capture(model, features=True, branches=True) as record:
        model(images)
    check_means(study, record.blocks)


def test_windows_are_told_and_limit_all_factors(images):
    model = pervit(window_size=3)
    study = study_model(model, images)
    assert 'attend within windows' in study.skipped['windows']
    within = 2 * 2**0.5  # diagonal of a window
    for factor in ('attention', 'content', 'position'):
        assert all(values.max() < within for values in study.distance[factor])
        assert all(values[:, 3].abs().max() == 0 for values in study_model(
            model, images, edges=[0.5, 1, within]).rings[factor])
    assert study.rollout.shape == (4, 5, 5)


def test_class_tokens_are_left_out(images):
    model = of_mmpretrain('VisionTransformer', img_size=SIDE, patch_size=4, arch=dict(
        embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32))
    with torch.no_grad(), capture(model, features=True, branches=True) as record:
        model(images)
    study = study_model(model, images)
    check_means(study, record.blocks)
    for found, block in zip(study.distance['attention'], record.blocks):
        assert block.raw_attention.shape[-1] == 26
        close(found, distance(block.raw_attention[:, :, 1:, 1:], (5, 5)).mean(0))
    assert study.skipped == dict(
        position='VisionTransformer has no position attention that can be read from its weights.')


def test_a_grid_that_shrinks_has_no_rollout():
    model = of_mmpretrain('SwinTransformer', img_size=64, window_size=4, out_indices=(1, ), arch=dict(
        embed_dims=16, depths=[2, 2], num_heads=[2, 4]))
    study = study_model(model, torch.randn(4, 3, 64, 64), shown=1)
    assert study.grids == [(16, 16)] * 2 + [(8, 8)] * 2 and study.heads == [2, 2, 4, 4]
    assert study.skipped['rollout'].startswith('The grid shrinks') and study.rollout is None
    assert 'windows' in study.skipped
    # Default edges follow the grid of the block.
    assert [edges[0] for edges in study.edges] == pytest.approx([1.5 * 16 / 14] * 2 + [1.5 * 8 / 14] * 2)


@pytest.mark.parametrize('kind, options', [
    ('ConvNeXt', dict(arch=dict(depths=[1, 1], channels=[8, 16]), out_indices=1)),
    ('ResNet', dict(depth=18, base_channels=8, stem_channels=8))])
def test_convolutional_networks_have_features_alone(kind, options):
    model, images = of_mmpretrain(kind, **options), torch.randn(4, 3, 32, 32)
    study = study_model(model, images)
    assert study.skipped['attention'] == f'{kind} is a convolutional network and has no attention.'
    assert not (study.distance or study.entropy or study.rings or study.aligned or study.impact or study.norms
                or study.maps) and study.rollout is None
    with torch.no_grad(), capture(model, attention=False, features=True) as record:
        model(images)
    close(study.cka, CKAMatrix().update([block.output for block in record]).result())
    for found, block in zip(study.uniformity, record):
        if block.output.shape[1] == 1:  # the last stage of a ResNet has one token here
            assert found != found and 'one token' in study.skipped['uniformity']
        else:
            assert found == pytest.approx(token_uniformity(block.output).mean().item(), rel=1e-4)
    assert (kind == 'ResNet') == ('uniformity' in study.skipped)
    assert study.receptive_field.shape == (32, 32) and study.receptive_field.max() > 0


def test_images_that_the_grid_does_not_divide_have_no_localization(model):
    study = study_model(model, torch.randn(4, 3, 22, 20))
    h, w = study.grids[-1]
    assert study.localization is None
    assert study.skipped == dict(localization=f'The image of 22 x 20 pixels is no multiple of the {h} x {w} grid.')


def test_default_blocks_are_those_of_the_paper():
    assert default_blocks(12) == (2, 3, 7)
    for blocks in range(1, 40):
        chosen = default_blocks(blocks)
        assert chosen == tuple(sorted(set(chosen))) and 0 <= chosen[0] and chosen[-1] < blocks
        assert len(chosen) == 3 or blocks < 6


def test_mistakes_are_named(model, images):
    for options, message in (
            (dict(shown_blocks=[3]), r'blocks \(--blocks\) must be numbers from 0 to 2, got 3'),
            (dict(shown_blocks=[-1]), 'got -1'), (dict(shown_blocks=[1.]), 'got 1.0'),
            (dict(shown=0), r'shown \(--shown\) must be a positive number of images, got 0'),
            (dict(shown=-1), 'got -1'),
            (dict(edges=[2, 1]), r'edges must be distances in tokens that rise from above 0, got \(2, 1\)'),
            (dict(edges=[0, 1]), r'got \(0, 1\)'), (dict(edges=[]), r'got \(\)'),
            (dict(edges=[1, float('nan')]), r'got \(1, nan\)')):
        with pytest.raises(UserError, match=message):
            study_model(model, images, **options)
    with pytest.raises(UserError, match=r'model must be in eval mode.*model.eval\(\)'):
        study_model(PerViT(TINY_ARCH, img_size=SIDE), images)
    with pytest.raises(UserError, match='model must have one of the backbones .*, got Conv2d'):
        study_model(nn.Conv2d(3, 4, 3).eval(), images)


def test_uniform_references_stay_within_windows():
    """A grid of 5 x 5 in windows of 3: tokens 0 to 2 and 3 to 4 of each axis attend among themselves."""
    model = pervit(window_size=3)
    study = study_model(model, torch.randn(1, 3, SIDE, SIDE))
    sides = [(h, w) for h in (3, 2) for w in (3, 2)]
    mean = sum(h * w * distance(torch.ones(h * w, h * w), (h, w)).item() for h, w in sides) / 25
    assert study.uniform['distance'] == pytest.approx([mean] * study.blocks)
    entropy = sum(h * w * np.log(h * w) for h, w in sides) / 25
    assert study.uniform['entropy'] == pytest.approx([entropy] * study.blocks)


def test_without_content_there_is_no_impact_of_position():
    study = study_model(pervit(content=False), torch.randn(2, 3, SIDE, SIDE))
    assert not study.impact and study.distance.keys() == {'attention', 'position'}
    for factor in zip(*study.distance.values()):
        close(*factor)
    assert study.skipped['content'].startswith('This PerViT has no Φc')


def test_localization_is_left_out_where_it_would_fill_the_memory(model, images, monkeypatch):
    monkeypatch.setattr(plan_module, 'MOST_PAIRS', 25 * COUNT**2 - 1)
    study = study_model(model, images)
    assert study.localization is None and study.cka is not None
    assert study.skipped['localization'].endswith(f'give at most {COUNT - 1} images for it.')


def test_images_whose_attention_would_fill_the_memory_are_refused(model, images, monkeypatch):
    monkeypatch.setattr(plan_module, 'MOST_MAP_VALUES', 2 * 25**2 - 1)
    with pytest.raises(UserError, match='20 x 20 pixels give a grid of .5, 5. tokens, .* give smaller images'):
        study_model(model, images)
