"""DistillationHook in real runs of a fraction of a second: schedules, steps, gradients, resuming, collapse."""
import math
from types import SimpleNamespace

import pytest
import torch
from classifier_run import runner as classifier_runner
from conftest import randomize
from distillation_run import ATTMASK, DINO, ESVIT, MASKED, SIT, distillation_runner, distiller
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS

from pervit_mm.checkpoints.allow_list import allow_checkpoint_types
from pervit_mm.selfsup import DistillationHook, EMATeacher
from pervit_mm.selfsup.distillation_hook import clip_each
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')
allow_checkpoint_types()
pytestmark = pytest.mark.usefixtures('one_thread')


class Watcher(Hook):
    """Calls functions of the runner at the start, and after each iteration or epoch, behind other hooks."""

    priority = 'LOWEST'

    def __init__(self, start=None, iteration=None, epoch=None):
        self.calls = dict(start=start, iteration=iteration, epoch=epoch)
        self.seen = dict(start=[], iteration=[], epoch=[])

    def _see(self, when, runner):
        if self.calls[when] is not None:
            self.seen[when].append(self.calls[when](runner))

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            self._see('start', runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._see('iteration', runner)

    def after_train_epoch(self, runner):
        self._see('epoch', runner)


def watched(folder, start=None, iteration=None, epoch=None, **options):
    """Train with a watcher, and return the runner and what was seen."""
    runner, watcher = distillation_runner(folder, **options), Watcher(start, iteration, epoch)
    runner.register_hook(watcher)
    runner.train()
    return runner, watcher.seen


def weights_of(runner):
    return {key: value.clone() for key, value in runner.model.state_dict().items()}


def state_of(runner):
    return dict(runner.model.state_dict())


@pytest.fixture
def momenta(monkeypatch):
    """The momentum of each update of a teacher."""
    seen, update = [], EMATeacher.update_parameters

    def record(self, model, momentum):
        seen.append(momentum)
        update(self, model, momentum)

    monkeypatch.setattr(EMATeacher, 'update_parameters', record)
    return seen


@pytest.fixture
def warnings(monkeypatch):
    """Warnings of a collapse."""
    texts = []
    monkeypatch.setattr(MMLogger, 'warning', lambda self, text, *args, **kwargs: texts.append(str(text)))
    return lambda: [text for text in texts if 'collapse' in text]


def test_the_momentum_follows_half_a_cosine_over_the_run(tmp_path, momenta):
    """From 0.9 to 1 over 6 iterations; so does the temperature its warm-up."""
    head = dict(DINO['head'], warmup_teacher_temp=0.1, teacher_temp=0.2, warmup=0.5)
    runner, seen = watched(tmp_path, model=dict(DINO, head=head), epochs=3,
                           iteration=lambda runner: runner.model.head.teacher_temp)
    assert momenta == pytest.approx([1 - 0.1 * (1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)])
    assert seen['iteration'] == pytest.approx([0.1, 0.1 + 0.1 / 3, 0.1 + 0.2 / 3, 0.2, 0.2, 0.2])
    assert runner.model.teacher.steps == 6


def test_the_teacher_moves_behind_the_step(tmp_path):
    """After the first iteration it is 0.9 of the common start and 0.1 of the student behind the step."""
    _, seen = watched(tmp_path, epochs=1, start=weights_of, iteration=weights_of)
    (start, ), first = seen['start'], seen['iteration'][0]
    key = 'neck.prototypes'
    assert not torch.equal(first[key], start[key])
    torch.testing.assert_close(first['teacher.module.' + key], 0.9 * start[key] + 0.1 * first[key])


def test_the_teacher_moves_once_for_each_step_of_the_optimizer(tmp_path):
    """Two batches make a step; the last of five stands alone."""
    steps = []

    def count(runner):
        runner.optim_wrapper.optimizer.register_step_post_hook(lambda *args: steps.append(runner.iter))

    runner, seen = watched(tmp_path, epochs=1, images=20, start=count, optim_wrapper=dict(accumulative_counts=2),
                           iteration=lambda runner: runner.model.teacher.steps.item())
    assert steps == [1, 3, 4] and seen['iteration'] == [0, 1, 1, 2, 3]


def plain_step(folder, hook, **options):
    """Gradients that reach the optimizer in one step of plain descent at a rate of 1."""
    _, seen = watched(folder, epochs=1, images=4, optimizer=dict(type='SGD', lr=1.), hooks=[hook],
                      start=weights_of, iteration=weights_of, **options)
    (before, ), (after, ) = seen['start'], seen['iteration']
    return {key: before[key] - after[key] for key in before if key.startswith(('backbone.', 'neck.'))
            and before[key].is_floating_point() and 'running' not in key}


def test_gradients_are_clipped_by_parameter(tmp_path):
    """As torch does it for each parameter alone."""
    raw = plain_step(tmp_path / 'raw', dict(type='DistillationHook'))
    found = plain_step(tmp_path / 'clipped', dict(type='DistillationHook', clip_grad=0.05))
    changed = 0
    for key, grad in raw.items():
        param = torch.nn.Parameter(torch.zeros_like(grad))
        param.grad = grad.clone()
        changed += torch.nn.utils.clip_grad_norm_([param], 0.05).item() > 0.05
        torch.testing.assert_close(found[key], param.grad, rtol=1e-3, atol=1e-6)
    assert 5 < changed < len(raw), 'the limit must matter for some parameters and not for others'


def test_clipping_is_that_of_torch():
    params = [torch.nn.Parameter(torch.zeros(size)) for size in (3, 1, 200, 5)]
    for param, scale in zip(params[:3], (0.01, 5., 1.)):
        param.grad = scale * torch.randn_like(param)
    expected = []
    for param in params[:3]:
        twin = torch.nn.Parameter(torch.zeros_like(param))
        twin.grad = param.grad.clone()
        torch.nn.utils.clip_grad_norm_([twin], 0.7)
        expected.append(twin.grad)
    clip_each(params, 0.7)
    for param, grad in zip(params, expected):
        torch.testing.assert_close(param.grad, grad)
    assert params[3].grad is None
    clip_each([params[3]], 0.7)


@pytest.mark.parametrize('system, names', [(DINO, ['neck.prototypes']),
                                           (ESVIT, ['neck.prototypes', 'region_neck.prototypes'])])
def test_prototypes_do_not_change_in_their_frozen_epoch(tmp_path, system, names):
    """Weight decay included; everything else moves, and they do afterwards. Without the option they move at once."""
    for frozen in (1, 0):
        _, seen = watched(tmp_path / str(frozen), model=system, start=weights_of, epoch=weights_of,
                          hooks=[dict(type='DistillationHook', freeze_prototypes=frozen)])
        (start, ), (first, second) = seen['start'], seen['epoch']
        for name in names:
            assert torch.equal(start[name], first[name]) == bool(frozen)
            assert not torch.equal(first[name], second[name])
        assert not torch.equal(start['neck.mlp.0.weight'], first['neck.mlp.0.weight'])


@pytest.mark.parametrize('whole', [False, True])
def test_a_teacher_starts_from_what_was_loaded(tmp_path, whole):
    """From its own weights; those of a student alone are enough, and then it is equal to that."""
    model = distiller()  # its teacher and its student differ
    state = {key: value for key, value in model.state_dict().items()
             if whole or key.startswith(('backbone.', 'neck.'))}
    torch.save(dict(state_dict=state), tmp_path / 'weights.pth')
    _, seen = watched(tmp_path / 'run', epochs=1, load_from=str(tmp_path / 'weights.pth'), start=weights_of)
    start, = seen['start']
    for key, value in state.items():
        assert torch.equal(start[key], value), key
    pairs = [(start[key], start[f'teacher.module.{key}']) for key in state if key.startswith(('backbone.', 'neck.'))]
    assert all(torch.equal(*pair) for pair in pairs) == (not whole)


@pytest.mark.parametrize('system', [
    {**ATTMASK, 'region_neck': ESVIT['region_neck'], 'region_head': ESVIT['region_head'],
     'backbone': dict(MASKED, drop_path_rate=0.3)}, SIT])
def test_a_resumed_run_repeats_the_run_to_the_bit(tmp_path, system):
    """Weights, teacher, centers and number of updates, with random masks, corruption and DropPath."""
    options = dict(model=system, epochs=3, images=8, checkpoint=dict(type='PerViTCheckpointHook', interval=1),
                   hooks=[dict(type='DistillationHook', clip_grad=1., freeze_prototypes=2)])
    whole, seen = watched(tmp_path / 'whole', epoch=weights_of, **options)
    resumed, _ = watched(tmp_path / 'resumed', resume=True, load_from=str(tmp_path / 'whole' / 'epoch_1.pth'),
                         **options)
    assert resumed.iter == 6 and whole.model.teacher.steps == 6
    expected, found = state_of(whole), state_of(resumed)
    assert expected.keys() == found.keys()
    assert sum(key.endswith('.center') for key in expected) == (0 if system is SIT else 3)
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key
    assert not torch.equal(seen['epoch'][0]['neck.mlp.0.weight' if system is not SIT else 'neck.fc0.weight'],
                           expected['neck.mlp.0.weight' if system is not SIT else 'neck.fc0.weight'])


def constant_answers(model):
    """Give all prototypes one direction, so that every image gets the same logits for all of them."""
    for neck in (model.neck, model.teacher.module['neck']):
        neck.prototypes.data.fill_(1)
    return model


def test_a_collapse_is_reported_once(tmp_path, warnings):
    """After a tenth of the run, in one sentence with what to do."""
    def collapse(runner):
        constant_answers(runner.model)

    watched(tmp_path, epochs=5, start=collapse, optimizer=dict(type='SGD', lr=0.))
    text, = warnings()
    assert text.startswith("The features collapse, at iteration 2: the teacher's answers have 1.000 of the largest "
                           'entropy, so they say nothing: lower teacher_temp.')


def test_a_healthy_run_reports_nothing(tmp_path, warnings):
    """The same run with answers that differ from image to image."""
    watched(tmp_path, epochs=5, start=lambda runner: randomize(runner.model),
            optimizer=dict(type='SGD', lr=0.))
    assert not warnings()


def test_a_run_without_the_hook_is_told(tmp_path):
    with pytest.raises(UserError, match=r"SelfDistillation needs dict\(type='DistillationHook'\) in custom_hooks"):
        distillation_runner(tmp_path, hooks=()).train()


def test_a_model_without_a_teacher_is_told(tmp_path):
    with pytest.raises(UserError, match='a model with a teacher, such as SiT, got ImageClassifier: take '):
        classifier_runner(tmp_path, [dict(type='DistillationHook')]).train()


def test_a_run_by_iteration_has_no_epoch_to_freeze_in(tmp_path):
    options = dict(train_cfg=dict(by_epoch=False, max_iters=2))
    with pytest.raises(UserError, match='freeze_prototypes .* counts epochs, got 1 in a run by iteration'):
        watched(tmp_path / 'a', hooks=[dict(type='DistillationHook', freeze_prototypes=1)], **options)
    runner, _ = watched(tmp_path / 'b', hooks=[dict(type='DistillationHook', clip_grad=1.)], **options)
    assert runner.model.teacher.steps == 2


def test_optimizers_that_cannot_be_clipped_are_told():
    model = distiller()
    hook = DistillationHook(clip_grad=1.)

    def start(wrapper):
        hook.before_train(SimpleNamespace(model=model, iter=0, optim_wrapper=wrapper, train_loop=None))

    wrapper = OptimWrapper(torch.optim.SGD(model.neck.parameters(), lr=1., fused=True))
    start(wrapper)  # a fused optimizer is fine as long as nothing is scaled
    wrapper.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)
    start(wrapper)
    wrapper.loss_scaler = torch.amp.GradScaler('cpu')
    with pytest.raises(UserError, match='a fused optimizer unscales them itself: set .*foreach=True'):
        start(wrapper)
    with pytest.raises(UserError, match='takes one optimizer, got OptimWrapperDict'):
        start(OptimWrapperDict(a=wrapper))
    DistillationHook().before_train(SimpleNamespace(model=model, iter=0, optim_wrapper=None, train_loop=None))


def test_the_optimizer_is_left_as_it_was(tmp_path):
    runner, _ = watched(tmp_path, epochs=1, hooks=[dict(type='DistillationHook', clip_grad=1.)])
    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize('options, message', [
    (dict(clip_grad=0), 'clip_grad must be a number above 0, got 0'),
    (dict(freeze_prototypes=-1), 'freeze_prototypes must be a number of epochs of at least 0, got -1'),
    (dict(freeze_prototypes=0.5), 'freeze_prototypes .* got 0.5')])
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        HOOKS.build(dict(type='DistillationHook', **options))
