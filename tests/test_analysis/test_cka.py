"""CKA against the formula of Song et al. 2012 and its invariances."""
from itertools import combinations, permutations

import pytest
import torch

from pervit_mm.analysis.cka import CKAMatrix, UnbiasedCKA, cka_matrix, hsic, u_centered_gram
from pervit_mm.utils.errors import UserError


def features(n, p):
    return torch.randn(n, p, dtype=torch.float64)


def hsic_by_definition(x, y):
    """Song et al. 2012: three means over tuples of different examples."""
    k, l = x @ x.T, y @ y.T  # noqa: E741
    n = range(len(x))

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    pairs = mean(k[i, j] * l[i, j] for i, j in permutations(n, 2))
    quads = mean(k[i, j] * l[q, r] for i, j, q, r in permutations(n, 4))
    triples = mean(k[i, j] * l[i, q] for i, j, q in permutations(n, 3))
    return pairs + quads - 2 * triples


def test_hsic_is_the_one_of_the_definition():
    x, y = features(6, 3), features(6, 5)
    torch.testing.assert_close(hsic(u_centered_gram(x), u_centered_gram(y)), hsic_by_definition(x, y))
    torch.testing.assert_close(
        UnbiasedCKA().update(x, y).result(),
        hsic_by_definition(x, y) / (hsic_by_definition(x, x) * hsic_by_definition(y, y)).sqrt())


def test_gram_is_u_centered():
    gram = u_centered_gram(features(7, 3) + 100)
    assert gram.diagonal().count_nonzero() == 0
    torch.testing.assert_close(gram.sum(0), torch.zeros(7, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(gram, gram.T)


def test_hsic_of_subsets_is_that_of_all_on_average():
    x, y = features(6, 3), features(6, 2)
    subsets = [list(subset) for subset in combinations(range(6), 4)]
    values = [hsic(u_centered_gram(x[s]), u_centered_gram(y[s])) for s in subsets]
    torch.testing.assert_close(torch.stack(values).mean(), hsic(u_centered_gram(x), u_centered_gram(y)))


def test_rotation_scale_and_shift_give_one():
    x = features(9, 5)
    rotation = torch.linalg.qr(features(5, 5))[0]
    cka = UnbiasedCKA()
    for part in (x[:5], x[5:]):  # the last batch is smaller
        cka.update(part, part @ rotation * 3 + features(1, 5))
    assert cka.result().item() == pytest.approx(1, abs=1e-12)
    # The mean of half-precision features is large in comparison with their differences.
    half = (x + 30).half()
    assert UnbiasedCKA().update(half, half).result().item() == pytest.approx(1, abs=1e-5)


def test_batches_add_up_in_any_order():
    x, y = features(13, 4), features(13, 6)
    batches = [(x[:5], y[:5]), (x[5:9], y[5:9]), (x[9:], y[9:])]
    forward, backward = UnbiasedCKA(), UnbiasedCKA()
    for batch in batches:
        forward.update(*batch)
    for batch in reversed(batches):
        backward.update(*batch)
    torch.testing.assert_close(forward.result(), backward.result())
    sums = [sum(hsic_by_definition(*pair) for pair in pairs) for pairs in (
        batches, [(a, a) for a, _ in batches], [(b, b) for _, b in batches])]
    torch.testing.assert_close(forward.result(), sums[0] / (sums[1] * sums[2]).sqrt())


def test_independent_features_give_zero_where_the_biased_estimate_is_large():
    n, p = 64, 256
    unbiased, biased = [], []
    for _ in range(20):
        x, y = features(n, p), features(n, p)
        unbiased.append(UnbiasedCKA().update(x, y).result())
        a, b = x - x.mean(0), y - y.mean(0)
        biased.append((a.T @ b).norm()**2 / (a.T @ a).norm() / (b.T @ b).norm())
    assert torch.stack(biased).mean().item() == pytest.approx(p / (p + n), abs=0.02)
    assert abs(torch.stack(unbiased).mean().item()) < 0.01
    assert min(unbiased) < 0  # on average zero means that some are below


def test_matrix_has_the_value_of_each_pair():
    a, b = [features(8, 3), features(8, 12).reshape(8, 4, 3)], [features(8, 2), features(8, 5), features(8, 5)]
    matrix = CKAMatrix().update([x[:4] for x in a], (x[:4] for x in b)).update([x[4:] for x in a], [x[4:] for x in b])
    assert matrix.result().shape == (2, 3)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            pair = UnbiasedCKA().update(x[:4], y[:4]).update(x[4:], y[4:])
            torch.testing.assert_close(matrix.result()[i, j], pair.result())
    same = cka_matrix(b)
    torch.testing.assert_close(same.diagonal(), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(same, cka_matrix(b, b))
    grams = CKAMatrix().update_grams(u_centered_gram(x) for x in b)
    torch.testing.assert_close(grams.result(), same)


def test_features_that_do_not_vary_have_no_cka():
    for count in (5, 16, 17, 31):  # a mean of equal numbers in float32 may be another number
        same = torch.rand(1, 3, generator=torch.Generator().manual_seed(count)).expand(count, -1)
        assert UnbiasedCKA().update(same, features(count, 3)).result().isnan()
        assert UnbiasedCKA().update(same, same).result().isnan()


@pytest.mark.parametrize('act, message', [
    (lambda: UnbiasedCKA().update(features(3, 2), features(3, 2)), 'at least 4 examples in every batch, got 3'),
    (lambda: UnbiasedCKA().update(features(5, 2), features(4, 2)), 'the same examples, got 5 and 4'),
    (lambda: UnbiasedCKA().update(torch.rand(5), features(5, 2)), r'got the shape \(5,\)'),
    (lambda: UnbiasedCKA().result(), 'no batch yet'),
    (lambda: cka_matrix([]), 'features_a must be a list of layers .* an empty list'),
    (lambda: cka_matrix([features(5, 2), features(4, 2)]), r'layers of \[4, 5\] examples'),
    (lambda: CKAMatrix().update([features(4, 2)]).update([features(4, 2)] * 2), 'the same layers'),
])
def test_mistakes_are_named(act, message):
    with pytest.raises(UserError, match=message):
        act()
