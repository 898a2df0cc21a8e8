"""Token uniformity against all pairs."""
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from pervit_mm.analysis.uniformity import token_uniformity
from pervit_mm.utils.errors import UserError


def test_it_is_the_mean_cosine_of_all_pairs():
    tokens = torch.randn(2, 6, 5, dtype=torch.float64) + 1
    for image, value in zip(tokens, token_uniformity(tokens)):
        cosines = [F.cosine_similarity(image[i], image[j], dim=0) for i, j in permutations(range(6), 2)]
        torch.testing.assert_close(value, torch.stack(cosines).mean())


def test_extremes():
    lengths = torch.tensor([1., 2, 30])
    assert token_uniformity(lengths[:, None] * torch.ones(3, 4)).item() == pytest.approx(1)
    assert token_uniformity(torch.eye(4)).item() == 0
    # The corners of a regular triangle point apart as much as three tokens can.
    angles = torch.arange(3) * 2 * torch.pi / 3
    assert token_uniformity(torch.stack([angles.cos(), angles.sin()], 1)).item() == pytest.approx(-1 / 2)
    # Three tokens alike and one of zeros: 6 of 12 pairs have cosine 1.
    assert token_uniformity(torch.tensor([[1., 0], [1, 0], [1, 0], [0, 0]])).item() == pytest.approx(0.5)


def test_one_token_is_refused():
    with pytest.raises(UserError, match=r'at least 2 tokens N, got the shape \(3, 1, 4\)'):
        token_uniformity(torch.ones(3, 1, 4))
