"""The neck is a weight-normed projection, and schedules are what their closed forms say."""
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from pervit_mm.selfsup import DistillationNeck
from pervit_mm.selfsup.checks import check_counts, check_positive, check_share
from pervit_mm.selfsup.schedules import cosine, warm_up
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')


def neck(num_layers=3):
    return DistillationNeck(6, out_channels=9, hid_channels=7, bottleneck_channels=5, num_layers=num_layers).double()


def by_torch(model):
    """The same from torch's parts: its prototypes are a Linear under a weight norm with a gain of 1."""
    last = weight_norm(nn.Linear(5, 9, bias=False), dim=0).double()
    last.parametrizations.weight.original0.data.fill_(1)
    last.parametrizations.weight.original1.data.copy_(model.prototypes.data)
    mlp = copy.deepcopy(model.mlp)
    return last, lambda x: last(F.normalize(mlp(x), dim=-1))


def test_it_equals_torchs_weight_norm_with_a_gain_of_one():
    """Logits, and the gradients of features and prototypes."""
    model = neck()
    last, expected = by_torch(model)
    x, weight = torch.randn(4, 3, 6).double(), torch.randn(4, 3, 9).double()
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [model(inputs[0]), expected(inputs[1])]
    torch.testing.assert_close(*outputs)
    for out in outputs:
        (out * weight).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(model.prototypes.grad, last.parametrizations.weight.original1.grad)
    assert outputs[0].abs().max() <= 1


def test_lengths_of_prototypes_do_not_count():
    model, x = neck(), torch.randn(4, 6).double()
    expected = model(x)
    model.prototypes.data *= torch.rand(9, 1) + 0.1
    torch.testing.assert_close(model(x), expected)


def test_the_layers_are_those_asked_for():
    shapes = {number: [tuple(m.weight.shape) for m in neck(number).mlp if isinstance(m, nn.Linear)]
              for number in (1, 2, 3)}
    assert shapes == {1: [(5, 6)], 2: [(7, 6), (5, 7)], 3: [(7, 6), (7, 7), (5, 7)]}
    assert [type(layer) for layer in neck().mlp] == [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]


def test_a_copy_has_prototypes_of_its_own():
    """torch's weight norm by hooks can't be copied, which the teacher needs."""
    model, x = neck(), torch.randn(4, 6).double()
    expected, twin = model(x), copy.deepcopy(model)
    assert torch.equal(twin(x), expected)
    twin.prototypes.data.normal_()
    assert torch.equal(model(x), expected) and not torch.equal(twin(x), expected)


def test_it_is_initialized_as_dino():
    """Linear layers from a normal of deviation 0.02 without bias; directions of prototypes equally likely."""
    model = DistillationNeck(64, out_channels=3000, hid_channels=128, bottleneck_channels=16)
    model.init_weights()
    for layer in model.mlp[::2]:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05) and not layer.bias.any()
    directions = F.normalize(model.prototypes.detach(), dim=-1)
    torch.testing.assert_close(directions.T @ directions / 3000, torch.eye(16) / 16, rtol=0, atol=0.01)
    assert directions.mean(0).abs().max() < 0.02


def test_the_cosine_has_its_values():
    """cos is 1, 1/2, 0, -1/2 and -1 at 0, 1/3, 1/2, 2/3 and 1."""
    found = [cosine(0.9, 1., share) for share in (0, 1 / 3, 1 / 2, 2 / 3, 1)]
    assert found == pytest.approx([0.9, 0.925, 0.95, 0.975, 1.])
    assert cosine(4., 2., 1 / 3) == pytest.approx(3.5)


def test_the_warm_up_is_linear_and_then_level():
    found = [warm_up(0.04, 0.08, 0.5, share) for share in (0, 0.125, 0.25, 0.499999, 0.5, 0.7, 1)]
    assert found == pytest.approx([0.04, 0.05, 0.06, 0.08, 0.08, 0.08, 0.08], abs=1e-6)
    assert warm_up(0.04, 0.08, 0., 0.) == 0.08 and warm_up(0.04, 0.08, 1., 1.) == 0.08


@pytest.mark.parametrize('name', ['in_channels', 'out_channels', 'hid_channels', 'bottleneck_channels', 'num_layers'])
def test_a_wrong_number_is_named(name):
    for value in (0, 2.5, True):
        with pytest.raises(UserError, match=f'^{name} of DistillationNeck must be a positive integer, got {value}$'):
            DistillationNeck(**{'in_channels': 3, name: value})


def test_checks_name_the_first_wrong_value():
    for check, good, bad in ((check_positive, (1, 0.1), (0, -1., float('nan'), True, '1', None)),
                             (check_share, (0, 1, 0.5), (-0.1, 1.1, float('nan'), True, '1', None))):
        check(**{f'a{i}': value for i, value in enumerate(good)})
        for value in bad:
            with pytest.raises(UserError, match=f'^wrong must be .*, got {value!r}$'):
                check(right=good[0], wrong=value)
    check_counts('Thing', one=1, many=7)
