"""NaN stops a run before it reaches the weights."""
import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from toy_run import BATCH, SAMPLES, ToyModel, samples, toy_runner, weights

from pervit_mm.engine.hooks.non_finite_hook import all_finite
from pervit_mm.utils.errors import UserError


def hook(**kwargs):
    return [dict(type='PerViTNonFiniteHook', **kwargs)]


def test_a_run_stops_at_once_with_its_weights_whole(tmp_path):
    run = toy_runner(tmp_path, hooks=hook(), bad=range(SAMPLES))
    before = weights(run)
    with pytest.raises(UserError, match='^a gradient is not finite in iteration 1, at the learning rate 0.01: training '
                       'stops. There is no checkpoint yet. Lower the learning rate'):
        run.train()
    assert all(torch.equal(value, before[key]) for key, value in weights(run).items())
    assert not list(tmp_path.glob('*.pth'))


def test_bfloat16_without_a_scaler_is_guarded_too(tmp_path, monkeypatch):
    """As the configs for GPUs in bfloat16. ``AmpOptimWrapper`` asks for a GPU, which this run doesn't use."""
    monkeypatch.setattr('mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available', lambda: True)
    run = toy_runner(tmp_path, hooks=hook(), bad=range(SAMPLES), optim_wrapper=dict(
        type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(enabled=False), optimizer=dict(type='Adam', lr=0.01)))
    before = weights(run)
    with pytest.raises(UserError, match='^a gradient is not finite in iteration 1'):
        run.train()
    assert all(torch.equal(value, before[key]) for key, value in weights(run).items())


def test_the_last_good_checkpoint_is_named(tmp_path):
    toy_runner(tmp_path, epochs=1, hooks=hook()).train()
    run = toy_runner(tmp_path, epochs=3, hooks=hook(), bad=range(SAMPLES), resume=True)
    with pytest.raises(UserError, match=f'in iteration {SAMPLES // BATCH + 1}, .* The last good checkpoint is '
                       f'{tmp_path}/epoch_1.pth, from which --resume goes on'):
        run.train()


def test_some_iterations_are_skipped_by_option(tmp_path):
    """One of twelve samples is NaN, so one of the three batches of each epoch has it."""
    run = toy_runner(tmp_path, hooks=hook(max_skips=1), bad=[5])
    run.train()
    assert all(value.isfinite().all() for value in weights(run).values())
    reference = toy_runner(tmp_path / 'other', epochs=3)
    assert any(not torch.equal(value, weights(reference)[key]) for key, value in weights(run).items()), 'it learned'
    run = toy_runner(tmp_path / 'all', hooks=hook(max_skips=2), bad=range(SAMPLES))
    with pytest.raises(UserError, match=r'in iteration 3, .* \(2 steps before it were skipped\): training stops'):
        run.train()


def test_with_accumulated_gradients_a_step_counts_once(tmp_path):
    """Each step has a NaN and then a finite loss, which must not end the row."""
    accumulate = dict(type='OptimWrapper', accumulative_counts=2, optimizer=dict(type='Adam', lr=0.01))
    run = toy_runner(tmp_path, hooks=hook(max_skips=2), optim_wrapper=accumulate, by_iteration=12,
                     checkpoint=dict(by_epoch=False, interval=12), train_dataloader=every_other_batch_is_nan())
    before = weights(run)
    with pytest.raises(UserError, match=r'in iteration 5, .* \(2 steps before it were skipped\): training stops'):
        run.train()
    assert all(torch.equal(value, before[key]) for key, value in weights(run).items())


def every_other_batch_is_nan():
    """Batches of one sample, the first, third and so on NaN."""
    return dict(batch_size=1, num_workers=0, dataset=samples(range(0, SAMPLES, 2)),
                collate_fn=dict(type='default_collate'), sampler=dict(type='InfiniteSampler', shuffle=False))


def test_each_of_several_optimizers_is_guarded(tmp_path):
    """The step of the dictionary that holds them is never called."""

    class TwoLayers(ToyModel):
        """Each layer has its own optimizer."""

        def __init__(self, width=3):
            super().__init__(width)
            self.second = torch.nn.Linear(3, 3)

        def forward(self, x, y=None, mode='tensor'):
            return dict(loss=(self.second(self.linear(x)) - y[:, None]).square().mean())

        def train_step(self, data, optim_wrapper):
            loss = self(**data, mode='loss')['loss']
            for one in optim_wrapper.values():
                one.zero_grad()
            loss.backward()
            for one in optim_wrapper.values():
                one.step()
            return dict(loss=loss)

    model = TwoLayers()
    wrappers = OptimWrapperDict(
        linear=OptimWrapper(torch.optim.SGD(model.linear.parameters(), lr=0.1)),
        second=OptimWrapper(torch.optim.SGD(model.second.parameters(), lr=0.1)))
    run = toy_runner(tmp_path, hooks=hook(), bad=range(SAMPLES), kind=lambda width: model, optim_wrapper=wrappers)
    before = weights(run)
    with pytest.raises(UserError, match='^a gradient is not finite in iteration 1'):
        run.train()
    assert all(torch.equal(value, before[key]) for key, value in weights(run).items())


def test_a_rate_that_is_far_too_large_is_told_within_an_iteration(tmp_path):
    """The weights overflow in the first step, and the second step finds it."""
    run = toy_runner(tmp_path, hooks=hook(), optimizer=dict(type='SGD', lr=1e38),
                     checkpoint=dict(interval=-1, save_last=False))
    with pytest.raises(UserError, match='in iteration [23], at the learning rate 1e\\+38: training stops'):
        run.train()


def test_the_hook_changes_nothing_in_a_run_without_nan(tmp_path):
    plain = toy_runner(tmp_path / 'a')
    plain.train()
    guarded = toy_runner(tmp_path / 'b', hooks=hook())
    guarded.train()
    assert all(torch.equal(value, weights(plain)[key]) for key, value in weights(guarded).items())
    assert 'step' not in vars(guarded.optim_wrapper)


def test_all_finite_finds_nan_and_infinity():
    nan, inf = float('nan'), float('inf')
    assert all_finite([]) and all_finite([torch.empty(0)])
    assert all_finite([torch.ones(3), torch.full((2, 2), 3e38), torch.empty(0)])
    for bad in (nan, inf, -inf):
        assert not all_finite([torch.ones(3), torch.tensor([1., bad])])
    assert all_finite([torch.eye(3).to_sparse()]) and not all_finite([torch.tensor([[0., nan]]).to_sparse()])


def test_mistakes_are_named():
    from mmengine.registry import HOOKS
    with pytest.raises(UserError, match='max_skips of PerViTNonFiniteHook must be a number .* got -1'):
        HOOKS.build(dict(type='PerViTNonFiniteHook', max_skips=-1))
