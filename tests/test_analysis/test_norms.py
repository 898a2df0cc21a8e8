"""Skip against branch: a closed form."""
import pytest
import torch

from pervit_mm.analysis.norms import skip_branch_ratio
from pervit_mm.utils.errors import UserError


def test_ratio_of_a_multiple_is_its_inverse():
    skip = torch.randn(3, 5, 4)
    factors = torch.tensor([0.25, 1., -8.])
    torch.testing.assert_close(skip_branch_ratio(skip, factors[:, None, None] * skip), 1 / factors.abs())


def test_norm_is_over_tokens_and_channels():
    skip, branch = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    skip[0] = torch.tensor([[3., 0], [0, 4]])
    branch[0, 1] = torch.tensor([6., 8])
    assert skip_branch_ratio(skip, branch).tolist() == [0.5]
    # The squares of 300 overflow float16.
    half = torch.full((1, 2, 2), 300.).half()
    assert skip_branch_ratio(half, half).tolist() == [1]
    assert skip_branch_ratio(skip, torch.zeros_like(skip)).tolist() == [float('inf')]


@pytest.mark.parametrize('skip, branch', [((2, 5, 4), (2, 5, 3)), ((5, 4), (5, 4))])
def test_other_shapes_are_refused(skip, branch):
    with pytest.raises(UserError, match=r'skip and branch must be of one shape \(B, N, C\)'):
        skip_branch_ratio(torch.ones(skip), torch.ones(branch))
