"""Priors on heads: only the named heads follow, by formulas and by gradients that are exactly 0 elsewhere."""
import math

import numpy as np
import pytest
import torch
from conftest import TINY_ARCH, randomize
from distillation_run import SIT, distillation_runner
from mmengine.registry import MODELS, DefaultScope

from pervit_mm.models import PerViT
from pervit_mm.selfsup import AttentionPriorHook, AttentionPriorLoss, center_prior, gaussian_prior, write_prior
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
    return loss(records)


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
    assert loss.position_loss(backbone).item() == pytest.approx(3 * expected, rel=1e-4)
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
    optimizer, first = torch.optim.Adam(backbone.parameters(), lr=0.05), loss.position_loss(backbone).item()
    for _ in range(200):
        optimizer.zero_grad()
        loss.position_loss(backbone).backward()
        optimizer.step()
    assert loss.position_loss(backbone).item() < first / 10


def test_views_of_another_grid_do_not_count():
    backbone, loss = network(), None
    loss, images = loss_of(backbone, relative(), absolute()), torch.randn(2, 1, 28, 28)
    with loss.record(backbone) as records:
        backbone(images)
        backbone(torch.randn(2, 1, 16, 16))
    alone = run(loss, backbone, images)
    assert loss(records) == alone
    with loss.record(backbone) as records:
        backbone(torch.randn(2, 1, 16, 16))
    with pytest.raises(UserError, match=r'grid \(7, 7\), and block 1 ran on \[\(4, 4\)\]'):
        loss(records)


def test_the_hook_adds_the_losses_to_a_pre_training_and_takes_them_off_again(tmp_path):
    pytest.importorskip('mmpretrain')
    write_prior(gaussian_prior(GRID, 1.), tmp_path / 'near.npz')
    hook = AttentionPriorHook([dict(prior=str(tmp_path / 'near.npz'), block=0, heads=[0])])
    seen = []

    class Watch(AttentionPriorHook):
        def __init__(self):
            pass

        def before_train(self, runner):
            pass

        def after_train(self, runner):
            pass

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.append({key: value.item() for key, value in outputs.items()})

    runner = distillation_runner(tmp_path, SIT, hooks=(dict(type='DistillationHook'), hook, Watch()), epochs=1)
    keys = set(runner.model.state_dict())
    runner.train()
    assert all(log['position_prior_loss'] > 0 for log in seen) and len(seen) == 2
    parts = [value for key, value in seen[0].items() if key.endswith('loss') and key != 'loss']
    assert seen[0]['loss'] == pytest.approx(sum(parts), rel=1e-5)
    assert 'loss' not in vars(runner.model) and set(runner.model.state_dict()) == keys


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
