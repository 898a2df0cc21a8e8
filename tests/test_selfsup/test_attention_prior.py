"""Priors on heads: only the named heads follow, by formulas and by gradients that are exactly 0 elsewhere."""
import math

import numpy as np
import pytest
import torch
from conftest import TINY_ARCH, randomize
from distillation_run import SIT, distillation_runner
from mmengine.hooks import Hook
from mmengine.registry import MODELS, DefaultScope

from pervit_mm.models import PerViT
from pervit_mm.selfsup import (
    AttentionPriorHook,
    AttentionPriorLoss,
    MAEPerViT,
    center_prior,
    gaussian_prior,
    write_prior,
)
from pervit_mm.selfsup.block_maps import record_blocks
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')
GRID = (7, 7)


def network(**options):
    return randomize(PerViT(TINY_ARCH, img_size=28, in_channels=1, **options)).eval()


def loss_of(backbone, *priors):
    loss = AttentionPriorLoss(list(priors))
    loss.check(backbone)
    return loss


def relative(**options):
    return dict(dict(prior=gaussian_prior(GRID, 1.), block=1, heads=[1]), **options)


def absolute(**options):
    return dict(dict(prior=center_prior(GRID, 1.5), block=2, heads=[0]), **options)


def run(loss, backbone, images):
    with loss.record(backbone) as records:
        backbone(images)
    return loss(backbone, records)


def test_a_relative_prior_is_the_divergence_of_normalized_rows_with_and_without_an_image():
    backbone = network()
    loss = loss_of(backbone, relative(loss_weight=3.))
    position = backbone.position_terms(GRID)[1][1].double().exp()
    expected = 0.
    for q in range(49):
        near = [math.exp(-((q // 7 - k // 7)**2 + (q % 7 - k % 7)**2) / 2) for k in range(49)]
        for k in range(49):
            p = near[k] / sum(near)
            expected += p * math.log(p * position[q].sum().item() / position[q, k].item()) / 49
    assert loss(backbone)['position_prior_loss'].item() == pytest.approx(3 * expected, rel=1e-4)
    found = run(loss, backbone, torch.randn(2, 1, 28, 28))
    assert list(found) == ['position_prior_loss']
    assert found['position_prior_loss'].item() == pytest.approx(3 * expected, rel=1e-4)


def test_an_absolute_prior_is_the_divergence_of_the_column_mean():
    """Against attention as the model writes it out for analysis."""
    from pervit_mm.analysis import capture
    backbone, images = network(), torch.randn(2, 1, 28, 28)
    with capture(backbone) as record:
        backbone(images)
    mean = record.blocks[2].attention[:, 0].mean(1).double()
    prior = center_prior(GRID, 1.5).target().double()
    expected = (prior * (prior / mean).log()).sum(1).mean()
    found = run(loss_of(backbone, absolute()), backbone, images)
    assert found['attention_prior_loss'].item() == pytest.approx(expected.item(), rel=1e-4)


def test_recording_changes_nothing_and_leaves_the_fast_path(monkeypatch):
    """Outputs are equal to the bit, no map is made of other blocks, and recomputation gives the same gradients."""
    backbone, images = network(), torch.randn(2, 1, 28, 28)
    loss, plain = loss_of(backbone, absolute()), backbone(images)[0]
    monkeypatch.setattr(type(backbone.blocks[0].attn), 'attention_maps', None)
    with loss.record(backbone) as records:
        assert torch.equal(backbone(images)[0], plain)
    assert [record.query is not None for record in records] == [False, False, True]
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in backbone.modules())
    gradients = []
    for recomputed in (False, True):
        backbone.with_cp = recomputed
        backbone.train().zero_grad()
        run(loss, backbone, images)['attention_prior_loss'].backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in backbone.parameters()])
    assert sum(grad is not None for grad in gradients[0]) > 20
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)


def test_gradients_of_other_heads_and_blocks_are_exactly_zero():
    """Rows of the second convolution and of the last norm. The first convolution is shared by the heads."""
    backbone = network()
    run(loss_of(backbone, relative()), backbone, torch.randn(2, 1, 28, 28))['position_prior_loss'].backward()
    position = backbone.blocks[1].attn.position
    for param in (position.conv2.weight, position.norm2.weight, position.norm2.bias):
        assert not param.grad[0].any() and param.grad[1].any()
    assert position.conv1.weight.grad.any()
    other = [p.grad for i in (0, 2) for p in backbone.blocks[i].parameters()] + [backbone.stem.proj.weight.grad]
    assert not any(grad.any() for grad in other if grad is not None)


def test_a_relative_prior_is_reached_without_an_image():
    """From the last block's start, which is global: a tenth of the loss is left after 200 steps at most."""
    backbone = PerViT(TINY_ARCH, img_size=28, in_channels=1)
    backbone.init_weights()
    loss = loss_of(backbone, relative(block=-1))
    optimizer, first = torch.optim.Adam(backbone.parameters(), lr=0.05), loss(backbone)['position_prior_loss'].item()
    for _ in range(200):
        optimizer.zero_grad()
        loss(backbone)['position_prior_loss'].backward()
        optimizer.step()
    assert loss(backbone)['position_prior_loss'].item() < first / 10


def test_views_of_another_grid_do_not_count_for_attention():
    """Φp needs no view. Two views on the grid count alike."""
    backbone = network()
    loss, views = loss_of(backbone, relative(), absolute()), torch.randn(2, 2, 1, 28, 28)
    with loss.record(backbone) as records:
        backbone(views[0])
        backbone(torch.randn(2, 1, 16, 16))
        backbone(views[1])
    alone = [run(loss, backbone, images) for images in views]
    found = loss(backbone, records)
    assert found['position_prior_loss'] == alone[0]['position_prior_loss'] == alone[1]['position_prior_loss']
    mean = sum(one['attention_prior_loss'].item() for one in alone) / 2
    assert found['attention_prior_loss'].item() == pytest.approx(mean, rel=1e-5)
    with loss.record(backbone) as records:
        backbone(torch.randn(2, 1, 16, 16))
    with pytest.raises(UserError, match=r'priors\[1\] is for the grid \(7, 7\), and block 2 ran on \[\(4, 4\)\]'):
        loss(backbone, records)


def test_scores_are_exact_under_autocast():
    """A product in bfloat16 has an error of 2 to the -8; this test fails without the switch."""
    backbone = network()
    with torch.autocast('cpu', torch.bfloat16), record_blocks(backbone, content=[0]) as records:
        backbone(torch.randn(2, 1, 28, 28))
        found = records[0].scores()
    query, key = records[0].query.double(), records[0].key.double()
    expected = query @ key.transpose(-2, -1) / query.shape[-1]**0.5
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('options', [dict(window_size=3), dict(mask_ratio=0.5)])
def test_a_relative_prior_fits_windows_and_dropped_tokens(options):
    backbone = randomize((MAEPerViT if 'mask_ratio' in options else PerViT)(
        TINY_ARCH, img_size=28, in_channels=1, **options))
    loss = loss_of(backbone, relative())
    with loss.record(backbone) as records:
        backbone(torch.randn(2, 1, 28, 28))
    position = backbone.blocks[1].attn.position(GRID, backbone.position_proj)[1]
    target = gaussian_prior(GRID, 1.).target()
    expected = (target * (target.log() - position.log_softmax(-1))).sum(-1).mean()
    assert loss(backbone, records)['position_prior_loss'].item() == pytest.approx(expected.item(), rel=1e-4)
    with pytest.raises(UserError, match='MAEPerViT drops some' if 'mask_ratio' in options else 'attend globally'):
        loss_of(backbone, absolute())


def test_the_hook_adds_the_losses_to_a_pre_training_and_takes_them_off_again(tmp_path):
    pytest.importorskip('mmpretrain')
    write_prior(gaussian_prior(GRID, 1.), tmp_path / 'near.npz')
    hook = AttentionPriorHook([dict(prior=str(tmp_path / 'near.npz'), block=0, heads=[0])])
    seen = []

    class Watch(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.append({key: value.item() for key, value in outputs.items()})

    runner = distillation_runner(tmp_path, SIT, hooks=(dict(type='DistillationHook'), hook, Watch()), epochs=1)
    keys = set(runner.model.state_dict())
    runner.train()
    assert all(log['position_prior_loss'] > 0 for log in seen) and len(seen) == 2
    parts = [value for key, value in seen[0].items() if key.endswith('loss') and key != 'loss']
    assert seen[0]['loss'] == pytest.approx(sum(parts), rel=1e-5)
    assert 'loss' not in vars(runner.model) and set(runner.model.state_dict()) == keys
    # A training that broke off leaves its loss, and the next one takes it off.
    hook.before_train(runner)
    hook.before_train(runner)
    inner = dict(zip(runner.model.loss.__code__.co_freevars, runner.model.loss.__closure__))['plain'].cell_contents
    assert inner.__func__ is type(runner.model).loss
    hook.after_train(runner)
    assert 'loss' not in vars(runner.model)
    runner.register_hook(AttentionPriorHook([absolute()]))
    with pytest.raises(UserError, match='custom_hooks must have one AttentionPriorHook, got more'):
        hook.before_train(runner)


@pytest.mark.parametrize('change, words', [
    (dict(block=3), 'block of priors\\[0\\] must be one of the blocks that run, from 0 to 2, got 3'),
    (dict(heads=[2]), r'heads of priors\[0\] must be below 2, got \(2,\)'),
    (dict(heads='0'), 'must be numbers of heads'), (dict(loss_weight=0), 'loss_weight of priors'),
    (dict(weight=1.), "must have prior, block, heads, and may have loss_weight, got .*'weight'"),
    (dict(prior='nowhere.npz'), "prior 'nowhere.npz' cannot be read"),
])
def test_mistakes(change, words):
    with pytest.raises(UserError, match=words):
        loss_of(network(), relative(**change))


def test_networks_that_cannot_follow_a_prior_are_told():
    with pytest.raises(UserError, match='block 1 has no Φp'):
        loss_of(network(position_cfg=None), relative())
    with pytest.raises(UserError, match='needs a PerViT as backbone, got Linear'):
        loss_of(torch.nn.Linear(1, 1), relative())
    windows = network(window_size=3)
    with pytest.raises(UserError, match=r'must attend globally .* window_size=\(3, 3\)'), record_blocks(windows, [0]):
        pass


def test_it_is_registered():
    with DefaultScope.overwrite_default_scope('mmengine'):
        assert MODELS.build(dict(type='AttentionPriorLoss', priors=[absolute()])).target0.sum() == pytest.approx(1)
    assert np.isclose(center_prior(GRID, 1.5).target().reshape(7, 7)[3, 3], center_prior(GRID, 1.5).target().max())
