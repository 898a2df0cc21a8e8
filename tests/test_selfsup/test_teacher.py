"""The teacher is the moving average of the student, with BatchNorm statistics of its own and no other randomness."""
import copy

import pytest
import torch
from distillation_run import ATTMASK, DINO, ESVIT, IBOT, SIT, distiller, make_views, options_of
from mmcv.cnn.bricks import DropPath
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pervit_mm.selfsup import EMATeacher, SelfDistillation
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')
#: Every option of SelfDistillation at once.
EVERYTHING = {**ATTMASK, 'region_neck': ESVIT['region_neck'], 'region_head': ESVIT['region_head']}


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_it_is_the_moving_average_of_the_students_parameters(dtype):
    """Against the definition in float64, one parameter and one step at a time."""
    student = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 2)).to(dtype)
    for param in student.parameters():
        param.data = 0.1 * torch.randn_like(param)
    teacher = EMATeacher(student)
    expected = [param.detach().double() for param in student.parameters()]
    for momentum in (0.9, 0.996, 0.5, 0.99, 0.7):
        for index, param in enumerate(student.parameters()):
            param.data = 0.1 * torch.randn_like(param)
            expected[index] = momentum * expected[index] + (1 - momentum) * param.detach().double()
        teacher.update_parameters(student, momentum)
    for found, value in zip(teacher.module.parameters(), expected):
        torch.testing.assert_close(found.double(), value, rtol=0, atol=1e-7)
    assert teacher.steps == 5


def test_the_ends_of_the_momentum_are_exact():
    """A momentum of 1 changes nothing, and one of 0 gives the student, except for the buffers."""
    student = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))
    teacher = EMATeacher(student)
    before = copy.deepcopy(teacher.module.state_dict())
    for param in student.parameters():
        param.data = torch.randn_like(param)
    student(torch.randn(4, 5))
    teacher.update_parameters(student, 1.)
    assert all(torch.equal(before[key], value) for key, value in teacher.module.state_dict().items())
    teacher.update_parameters(student, 0.)
    assert all(torch.equal(own, other) for own, other in zip(teacher.module.parameters(), student.parameters()))
    assert all(torch.equal(before[name], value) for name, value in teacher.module.named_buffers())


@pytest.mark.parametrize('system', [EVERYTHING, SIT])
def test_all_of_the_student_gets_a_gradient_and_nothing_of_the_teacher(system):
    model = distiller(system).train()
    losses = model.loss(make_views(4, (28, 28, 28)))
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    for name, param in model.named_parameters():
        assert (param.grad is None) == name.startswith('teacher.'), name
        assert param.requires_grad != name.startswith('teacher.'), name


def test_batch_norm_alone_follows_the_mode():
    """It trains while all else of the teacher is in eval mode, and frozen layers stay in eval mode."""
    model = distiller(IBOT, backbone=dict(drop_path_rate=0.5, drop_rate=0.5))
    assert any(isinstance(module, DropPath) for module in model.teacher.modules())
    for mode in (True, False, True):
        assert model.train(mode) is model and model.training == model.teacher.training == mode
        for name, module in model.teacher.module.named_modules():
            assert module.training == (mode and isinstance(module, _BatchNorm)), name
        assert model.backbone.training == mode
    for options in (dict(frozen_stages=0), dict(norm_eval=True)):
        frozen = distiller(backbone=options).train()
        assert not any(module.training for module in frozen.teacher.module.modules())


def test_the_teacher_drops_nothing():
    model, views = distiller(backbone=dict(drop_path_rate=0.9, drop_rate=0.5)).train(), make_views()
    assert torch.equal(model.teacher_tokens(views[:2]), model.teacher_tokens(views[:2]))
    with torch.no_grad():
        first, second = (model.student_tokens(views[:2]) for _ in range(2))
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize('system', [DINO, IBOT, ATTMASK])
def test_batch_norm_keeps_statistics_of_what_the_teacher_sees(system):
    """By torch's rule from one forward of the whole global views; no update copies those of the student."""
    model, views = distiller(system).train(), make_views()
    layer, other = (each.stem.layers[0] for each in (model.teacher.module['backbone'], model.backbone))
    other.norm.load_state_dict(layer.norm.state_dict())
    other.conv.load_state_dict(layer.conv.state_dict())
    with torch.no_grad():
        seen = layer.conv(torch.cat(views[:2])).transpose(0, 1).flatten(1)
    means, variances = (0.9 * layer.norm.running_mean + 0.1 * seen.mean(1),
                        0.9 * layer.norm.running_var + 0.1 * seen.var(1))
    model.loss(views)
    for _ in range(2):
        torch.testing.assert_close(layer.norm.running_mean, means)
        torch.testing.assert_close(layer.norm.running_var, variances)
        model.update_teacher()
    assert (other.norm.running_mean - means).abs().max() > 1e-3


@pytest.mark.parametrize('system', [EVERYTHING, SIT])
def test_init_weights_makes_the_teacher_equal_to_the_student(system):
    model = distiller(system)
    before = model.neck.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    model.init_weights()
    assert any(not torch.equal(before[key], value) for key, value in model.neck.state_dict().items())
    assert_synced(model)


def test_sync_copies_buffers_too():
    model = distiller(IBOT)
    assert not torch.equal(model.teacher.module['backbone'].stem.layers[0].norm.running_mean,
                           model.backbone.stem.layers[0].norm.running_mean)
    model.sync_teacher()
    assert_synced(model)


def assert_synced(model):
    """Every value of the teacher is that of the student, in memory of its own."""
    own, other = model.teacher.module.state_dict(), model.state_dict()
    assert own and any(key.startswith('backbone.') for key in own) and any(key.startswith('neck.') for key in own)
    for key, value in own.items():
        assert torch.equal(value, other[key]) and value.data_ptr() != other[key].data_ptr(), key


def test_a_copy_of_the_model_lives_by_itself():
    model, views = distiller(EVERYTHING).eval(), make_views()
    twin = copy.deepcopy(model)
    torch.manual_seed(1)
    expected = model.loss(views)
    torch.manual_seed(1)
    found = twin.loss(views)
    assert {key: value.item() for key, value in found.items()} == {key: value.item() for key, value in expected.items()}
    before = copy.deepcopy(model.teacher.state_dict())
    twin.update_teacher()
    assert all(torch.equal(before[key], value) for key, value in model.teacher.state_dict().items())


def test_a_student_of_another_width_is_told():
    model = distiller()
    other = SelfDistillation(**options_of(DINO, neck=dict(DINO['neck'], hid_channels=13)))
    model.neck = other.neck
    for change in (model.update_teacher, model.sync_teacher):
        with pytest.raises(UserError, match='teacher must have the shapes of the student.*: build the student first'):
            change()
