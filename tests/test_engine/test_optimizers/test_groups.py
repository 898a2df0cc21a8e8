"""Parameters of equal options share a group of the optimizer, and nothing else changes."""
import pytest
import torch
from conftest import TINY_ARCH
from dense_configs import CONFIGS
from mmengine.optim import build_optim_wrapper
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from toy_run import ToyModel, toy_runner, weights

from pervit_mm.models import PerViT
from pervit_mm.utils.errors import UserError

DECAY = dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.)
RATES = dict(layer_decay_rate=0.8, **DECAY)
GROUPED, LAYERS, MMENGINE = 'PerViTGroupedConstructor', 'PerViTLayerDecayConstructor', 'DefaultOptimWrapperConstructor'


def wrap(model, constructor, paramwise, **optimizer):
    return build_optim_wrapper(model, dict(
        type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.5, **optimizer),
        constructor=constructor, paramwise_cfg=paramwise))


class Deep(ToyModel):
    """Has several tensors of each kind, and depths."""

    def __init__(self, width):
        super().__init__(width)
        self.linear = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4),
                                    nn.Linear(4, width))

    def get_layer_depth(self, name, prefix=''):
        return int(name.split('.')[1]) // 2, 3


def test_a_model_has_two_groups_and_with_layer_decay_two_for_each_depth():
    with torch.device('meta'):
        model = nn.ModuleDict(dict(backbone=PerViT('tiny'), head=nn.Linear(280, 1000)))
    count = len(list(model.parameters()))
    assert len(wrap(model, MMENGINE, DECAY).optimizer.param_groups) == count == 282
    for constructor, paramwise, number in ((GROUPED, DECAY, 2), (LAYERS, RATES, 28)):
        groups = wrap(model, constructor, paramwise).optimizer.param_groups
        assert len(groups) == number and sum(len(group['params']) for group in groups) == count
        assert all(group['weight_decay'] == (0 if param.dim() == 1 else 0.5)
                   for group in groups for param in group['params'])
    assert {group['lr_scale'] for group in groups} == {0.8**i for i in range(14)}


def test_every_schedule_merges_groups():
    """Each file of the configs that makes an optimizer with options for parameters."""
    texts = {path.name: path.read_text() for path in CONFIGS.rglob('*.py')}
    makers = {name for name, text in texts.items() if 'paramwise_cfg=' in text and "type='AdamW'" in text}
    assert {'adamw_300e.py', 'adamw_layer_decay.py', 'imagenet.py'} < makers and len(makers) >= 9
    assert {name for name in makers if "constructor='PerViT" not in texts[name]} == set()


def test_an_option_that_equals_the_default_makes_no_group():
    wrapper = wrap(Deep(3), GROUPED, dict(bias_lr_mult=1., custom_keys={'linear.0': dict(decay_mult=1.)}))
    assert [len(group['params']) for group in wrapper.optimizer.param_groups] == [2, 8]
    assert {(group['lr'], group['weight_decay']) for group in wrapper.optimizer.param_groups} == {(0.01, 0.5)}


@pytest.mark.parametrize('foreach', [None, True])
@pytest.mark.parametrize('constructor, paramwise', [(GROUPED, DECAY), (LAYERS, RATES)])
def test_weights_are_bit_equal_after_some_steps(monkeypatch, foreach, constructor, paramwise):
    images = torch.randn(2, 3, 28, 28)
    trained = []
    for merged in (True, False):
        if not merged:
            monkeypatch.setattr('pervit_mm.engine.optimizers.groups.merge_groups', lambda groups: groups)
        torch.manual_seed(0)
        model = PerViT(TINY_ARCH, img_size=28)
        model.init_weights()
        wrapper = wrap(model, constructor, paramwise, foreach=foreach)
        assert len(wrapper.optimizer.param_groups) <= 10 or not merged
        for _ in range(4):
            wrapper.update_params(model(images)[0].square().sum())
        trained.append(model)
    for a, b in zip(*(model.parameters() for model in trained)):
        assert torch.equal(a, b)


@pytest.mark.parametrize('new, old, paramwise', [(GROUPED, MMENGINE, DECAY), (LAYERS, None, RATES)])
def test_a_run_with_a_group_for_each_parameter_is_resumed(tmp_path, monkeypatch, new, old, paramwise):
    """It ends at the weights and rates of an undisturbed run, with schedulers of the rate and of the decay."""

    def run(folder, constructor, **kwargs):
        decay = dict(type='CosineAnnealingParamScheduler', param_name='weight_decay', eta_min=0.1, T_max=4)
        runner = toy_runner(
            tmp_path / folder, kind=Deep, epochs=4, **kwargs,
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.5), constructor=constructor,
                               paramwise_cfg=paramwise),
            param_scheduler=[dict(type='LinearLR', start_factor=0.1, begin=0, end=2),
                             dict(type='CosineAnnealingLR', eta_min_ratio=0.1, T_max=4), decay])
        runner.train()
        return runner

    whole = run('whole', new)
    with monkeypatch.context() as patch:
        if old is None:  # as this constructor was when it did not merge
            patch.setattr('pervit_mm.engine.optimizers.groups.merge_groups', lambda groups: groups)
        before = run('old', old or new)
    assert len(before.optim_wrapper.optimizer.param_groups) == 10
    resumed = run('new', new, resume=True, load_from=str(tmp_path / 'old' / 'epoch_2.pth'))
    assert len(resumed.optim_wrapper.optimizer.param_groups) < 10
    for key, value in weights(whole).items():
        assert torch.equal(weights(resumed)[key], value), key
    assert resumed.optim_wrapper.get_lr() == whole.optim_wrapper.get_lr()
    assert resumed.optim_wrapper.get_lr()['base_lr'] == before.optim_wrapper.get_lr()['base_lr']
    for a, b in zip(resumed.param_schedulers, whole.param_schedulers):
        assert a.base_values == b.base_values and a.get_last_value() == b.get_last_value()


@pytest.mark.parametrize('constructor', [GROUPED, LAYERS])
def test_a_shared_tensor_is_refused_or_stepped_once(constructor):
    """The first step of Adam without decay is the learning rate, 0.01."""
    model = nn.ModuleDict(dict(one=nn.Linear(4, 4), other=nn.Linear(4, 4)))
    model.other.weight = model.one.weight
    model.get_layer_depth = lambda name, prefix='': (0, 2)
    paramwise = dict(bias_decay_mult=0.) if constructor == GROUPED else dict(bias_decay_mult=0., layer_decay_rate=1.)
    with pytest.raises(UserError, match='one.weight, other.weight share a tensor.*bypass_duplicate=True'):
        wrap(model, constructor, paramwise)
    before = model.one.weight.detach().clone()
    optimizer = wrap(model, constructor, dict(paramwise, bypass_duplicate=True)).optimizer
    model.one.weight.square().sum().backward()
    optimizer.step()
    # AdamW: the decay of lr * weight_decay, then a step of lr.
    torch.testing.assert_close((model.one.weight - before * 0.995).abs(), torch.full((4, 4), 0.01), atol=1e-5, rtol=0)


def test_a_fused_step_is_chosen_on_cuda_alone():
    """On fake tensors: this needs no GPU."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        for paramwise in (DECAY, None):
            optimizer = wrap(nn.Linear(3, 2, device='cuda'), GROUPED, paramwise).optimizer
            assert optimizer.defaults['fused'] and all(group['fused'] for group in optimizer.param_groups)
        assert not wrap(nn.Linear(3, 2, device='cuda'), GROUPED, DECAY, foreach=True).optimizer.defaults['fused']
        mixed = nn.Sequential(nn.Linear(3, 2, device='cuda'), nn.Linear(2, 1))
        assert not wrap(mixed, GROUPED, DECAY).optimizer.defaults['fused']
    assert not wrap(nn.Linear(3, 2), GROUPED, DECAY).optimizer.defaults['fused']


def test_the_state_of_another_device_does_not_change_how_a_step_is_computed():
    """A state brings its own options. The loss scaler asks the optimizer, and the step asks its groups."""
    model = nn.Linear(3, 2)
    plain, fused = (wrap(model, GROUPED, DECAY, fused=fused).optimizer for fused in (False, True))
    for source, target in ((plain, fused), (fused, plain)):
        target.load_state_dict(source.state_dict())
        assert {group['fused'] for group in target.param_groups} == {target.defaults['fused']}
