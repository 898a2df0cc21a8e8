"""The linear probe on data whose answer is known."""
import sys
from statistics import mean, stdev

import numpy as np
import pytest
import torch

from pervit_mm.evaluation.features import Features
from pervit_mm.evaluation.linear_probe import draw_shots, few_shot_probe, linear_probe, probe_blocks
from pervit_mm.utils.errors import UserError

pytest.importorskip('sklearn')
module = sys.modules['pervit_mm.evaluation.linear_probe']  # the package has the function under this name
pytestmark = pytest.mark.filterwarnings('error')  # among them scikit-learn's about a solver that didn't converge


def clouds(spread, count=200):
    """Four classes around the corners of a square, in the plane of the first two of six axes."""
    labels = torch.arange(count) % 4
    features = torch.randn(count, 6)
    features[:, :2] = torch.stack((labels % 2, labels // 2), 1) * 2. - 1 + spread * features[:, :2]
    return features, labels


def test_separable_classes_are_told_apart():
    result = linear_probe(*clouds(0.1), *clouds(0.1))
    assert result.top1 == 100 and result.held_out == 100 and result.strength in module.STRENGTHS


def test_of_equally_accurate_regularizations_the_best_fit_is_chosen():
    """On one axis of separated classes every C is right, and the weakest regularization is the surest."""
    x, y = torch.tensor([-2., -1., 1., 2.]).repeat(10)[:, None], torch.tensor([0, 0, 1, 1]).repeat(10)
    assert linear_probe(x, y, x, y) == module.ProbeResult(100., 10., 100.)


def test_random_labels_are_at_chance():
    train, test = torch.randn(400, 6), torch.randn(2000, 6)
    result = linear_probe(train, torch.arange(400) % 4, test, torch.arange(2000) % 4)
    assert abs(result.top1 - 25) < 5  # five deviations: sqrt(.25 * .75 / 2000) is 0.97 %


def test_scale_and_shift_of_each_channel_play_no_part():
    (train, y), (test, y_test) = clouds(0.8), clouds(0.8)
    scale, shift = 10**torch.linspace(-4, 4, 6), torch.linspace(-3, 3, 6)
    plain = linear_probe(train, y, test, y_test)
    assert 50 < plain.top1 < 100
    assert linear_probe(train.double() * scale + shift, y, test.double() * scale + shift, y_test) == plain


def test_it_is_logistic_regression():
    """Against the definition: the sum of cross-entropies times C, and half the squared weights, by torch's L-BFGS."""
    (train, y), (test, y_test) = clouds(0.8), clouds(0.8)
    result = linear_probe(train, y, test, y_test, strengths=[0.01])
    center, deviation = train.double().mean(0), train.double().std(0, unbiased=False)
    x, x_test = (train - center) / deviation, (test - center) / deviation
    weight, bias = torch.zeros(6, 4).double().requires_grad_(), torch.zeros(4).double().requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn='strong_wolfe')

    def closure():
        optimizer.zero_grad()
        fit = torch.nn.functional.cross_entropy(x @ weight + bias, y, reduction='sum')
        loss = 0.01 * fit + weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = 100 * ((x_test @ weight + bias).argmax(1) == y_test).double().mean().item()
    assert result.top1 == pytest.approx(expected) and result.held_out is None and result.strength == 0.01


def test_the_test_set_takes_no_part_in_the_choice(monkeypatch):
    """C and the held-out accuracy are the same whatever the test set is, and no row of it is seen in training."""
    seen, train_all = [], module._train
    monkeypatch.setattr(module, '_train', lambda x, y, x_test, c: (
        seen.append((len(x), len(x_test), len(c))), train_all(x, y, x_test, c))[1])
    train, y = clouds(1.)
    one, other = linear_probe(train, y, *clouds(1.)), linear_probe(train, y, torch.randn(8, 6), torch.zeros(8).long())
    assert (one.strength, one.held_out) == (other.strength, other.held_out)
    assert seen == [(160, 40, 6), (200, 200, 1), (160, 40, 6), (200, 8, 1)]
    held = module._draw(y, lambda count: round(count / 5), 0)
    assert np.bincount(y[held]).tolist() == [10, 10, 10, 10]


def test_the_block_with_the_information_is_found():
    (train, y), (test, y_test) = clouds(0.1), clouds(0.1)
    blocks = lambda x: {0: x[:, 2:], 1: x[:, :2], 4: x[:, 1:3]}  # noqa: E731
    results = probe_blocks(Features(train, blocks(train), y), Features(test, blocks(test), y_test))
    assert list(results) == [0, 1, 4]
    assert results[1].top1 == 100 and results[0].top1 < 40
    assert 40 < results[4].top1 < 60  # one of two bits
    assert max(results, key=lambda index: results[index].held_out) == 1


@pytest.mark.parametrize('shots', [1, 5])
def test_few_shots_join_blocks_and_repeat_by_seed(shots):
    (train, y), (test, y_test) = clouds(0.3), clouds(0.3)
    train, test = (Features(x, {0: x[:, :1], 1: x[:, 1:2]}, labels) for x, labels in ((train, y), (test, y_test)))
    both = few_shot_probe(train, test, [0, 1], shots)
    assert both == few_shot_probe(train, test, [0, 1], shots)
    assert len(both.top1) == 3 and both.mean == pytest.approx(mean(both.top1))
    assert both.deviation == pytest.approx(stdev(both.top1))
    assert both.mean > 80 and few_shot_probe(train, test, [0], shots).mean < 60
    drawn = draw_shots(y, shots, 1)
    alone = linear_probe(train.joined([0, 1])[drawn], y[drawn], test.joined([0, 1]), y_test,
                         module.STRENGTHS if shots > 1 else [1.], 1)
    assert alone.top1 == both.top1[1]


def test_shots_are_balanced_and_seeded():
    labels = torch.tensor([2, 0, 0, 2, 2, 0, 2, 0])
    drawn = draw_shots(labels, 3, 0)
    assert labels[drawn].bincount().tolist() == [3, 0, 3] and drawn.unique().numel() == 6
    assert torch.equal(drawn, draw_shots(labels, 3, 0))
    assert len({tuple(draw_shots(labels, 2, seed).tolist()) for seed in range(20)}) > 5


def test_mistakes_are_told():
    x, y = clouds(0.1, 20)
    features = Features(x, {0: x}, y)
    for call, message in (
            (lambda: linear_probe(x, y, x[:, :2], y), 'same width, got 6 and 2'),
            (lambda: linear_probe(x, torch.zeros_like(y), x, y), 'at least two classes, got one'),
            (lambda: linear_probe(x[:5], y[:5], x, y), 'class 1 has a single training image'),
            (lambda: linear_probe(x, y, x, y, [0.]), r'strengths must be values of C above 0, got \[0.0\]'),
            (lambda: linear_probe(x, y, x, None), 'the test features have no labels'),
            (lambda: few_shot_probe(features, features, [0], 2, [1]), r'at least two different numbers, got \(1,\)'),
            (lambda: few_shot_probe(features, features, [1], 2), r'blocks must name .* \[0\], got \[1\]'),
            (lambda: few_shot_probe(features, features, [0], 6), 'shots must be from 1 to 5, .* got 6')):
        with pytest.raises(UserError, match=message):
            call()


def test_without_scikit_learn_the_way_out_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.linear_model', None)
    with pytest.raises(UserError, match='pip install scikit-learn'):
        linear_probe(*clouds(0.1, 20), *clouds(0.1, 20))
