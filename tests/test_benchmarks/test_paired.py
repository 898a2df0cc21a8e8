"""Paired differences against values of a table, worked out by hand."""
import math

import pytest

from pervit_mm.benchmarks.paired import mean_and_deviation, paired_difference
from pervit_mm.utils.errors import UserError

pytest.importorskip('scipy')


def test_the_interval_is_student_s():
    """Differences 1, 2, 3: mean 2, standard error 1/√3, t(0.975; 2) = 4.3027 by any table, t = 2√3."""
    found = paired_difference({0: 11., 1: 22., 2: 33., 9: 0.}, {2: 30., 1: 20., 0: 10., 7: 5.})
    assert found.seeds == 3 and found.mean == pytest.approx(2)
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-5)
    # With two degrees of freedom Student's distribution is F(t) = 1/2 + t / (2 √(2 + t²)).
    assert found.p == pytest.approx(1 - 12**0.5 / 14**0.5)
    assert str(found) == '+2.00 (-0.48 to +4.48)'


@pytest.mark.parametrize('row', [{0: 88.1, 1: 87.3}, {0: 88.0, 1: 87.2}])
def test_equal_differences_show_nothing(row):
    """SciPy gives a p of 5e-14 for 0.1 and 0.1, and none for 0 and 0."""
    found = paired_difference(row, {0: 88.0, 1: 87.2})
    assert found.mean == pytest.approx(row[0] - 88) and (found.low, found.high, found.p) == (-math.inf, math.inf, 1)


def test_one_difference_has_no_interval():
    with pytest.raises(UserError, match=r'share at least two seeds, got \[0, 1\] and \[1, 2\]'):
        paired_difference({0: 1., 1: 2.}, {1: 1., 2: 2.})


def test_mean_and_deviation():
    assert mean_and_deviation({0: 1., 1: 2., 2: 3.}) == '2.00 ± 1.00' and mean_and_deviation({4: 2.}) == '2.00'
