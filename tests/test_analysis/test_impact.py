"""Impact of position, on small vectors by hand."""
import math

import pytest
import torch

from pervit_mm.analysis import position_impact
from pervit_mm.utils.errors import UserError


def impact_of(p, s):
    """Impact for one query and head, whose other query is the same; the values as Python numbers."""
    log_position = torch.tensor([[p] * len(p)], dtype=torch.float64)
    scores = torch.tensor([[[s] * len(s)]], dtype=torch.float64)
    return {name: value.item() for name, value in position_impact(log_position, scores).items()}


def test_variance_and_covariance_by_hand():
    """Var(log Φp) = 1 and Var(s) = 4 in both cases."""
    p, s = [-1., 1., -1., 1.], [2., -2., -2., 2.]  # uncorrelated
    found = impact_of(p, s)
    assert found['share'] == pytest.approx(1 / 5)
    assert found['covariance_share'] == pytest.approx(1 / 5)
    found = impact_of([-1., 1.], [2., -2.])  # content works against position: p + s = (1, -1), Cov(p, p + s) = -1
    assert found['share'] == pytest.approx(1 / 5)
    assert found['covariance_share'] == pytest.approx(-1)


def test_divergence_from_the_factor_that_decides():
    """Without content, Φa is the normalized Φp; the other divergence is written out."""
    a = [0.7, 0.3]
    found = impact_of([math.log(x) for x in a], [0., 0.])
    middle = [(x + 0.5) / 2 for x in a]
    expected = sum(x * math.log(x / m) + 0.5 * math.log(0.5 / m) for x, m in zip(a, middle)) / 2
    assert found['js_position'] == pytest.approx(0, abs=1e-12)
    assert found['js_content'] == pytest.approx(expected)
    assert found['share'] == 1


def test_attention_weighs_keys():
    """Keys with next to no attention don't count in the weighted share, though their log Φp is deep."""
    p, s = [0., 0., -60.], [1., -1., 0.]
    found = impact_of(p, s)
    assert found['share'] > 0.99
    assert found['weighted_share'] < 1e-6


def test_keys_of_other_windows_do_not_count():
    """Minus infinity leaves the values that the window alone has."""
    inner = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    scores = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    log_position = torch.full((2, 8, 8), float('-inf'), dtype=torch.float64)
    log_position[:, :4, :4] = log_position[:, 4:, 4:] = inner
    whole = torch.zeros(3, 2, 8, 8, dtype=torch.float64)
    whole[..., :4, :4] = whole[..., 4:, 4:] = scores
    for name, value in position_impact(log_position, whole).items():
        torch.testing.assert_close(value, position_impact(inner, scores)[name])


def test_nothing_that_varies_has_no_share():
    assert math.isnan(impact_of([0., 0.], [0., 0.])['share'])
    for constant in (-0.7, -5.3):  # rounding is no variance
        assert math.isnan(impact_of([constant] * 7, [0.] * 7)['share'])


def test_mistakes():
    with pytest.raises(UserError, match='log_position must be'):
        position_impact(torch.zeros(3, 4, 4), torch.zeros(1, 2, 4, 4))
