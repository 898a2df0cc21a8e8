"""Token localization: tokens that are the patches themselves have their peak at their own place."""
import pytest
import torch

from pervit_mm.analysis.cka import UnbiasedCKA
from pervit_mm.analysis.localization import token_localization
from pervit_mm.utils.errors import UserError

GRID = (2, 3)


def cut(images, row, col):
    """Patch (row, col) of images of 4 x 9 pixels."""
    return images[:, :, 2 * row:2 * row + 2, 3 * col:3 * col + 3].flatten(1)


@pytest.fixture
def images():
    return torch.randn(12, 2, 4, 9)


@pytest.fixture
def patches(images):
    """The patches as tokens, in reading order."""
    return torch.stack([cut(images, row, col) for row in range(2) for col in range(3)], 1)


def test_tokens_that_are_the_patches_peak_at_their_own_place(images, patches):
    rotation = torch.linalg.qr(torch.randn(12, 12))[0]
    found = token_localization(3 * patches @ rotation + 1, images, GRID)
    assert found.shape == (6, 2, 3)
    for token in range(6):
        own = found[token, token // 3, token % 3]
        assert own.item() == pytest.approx(1, abs=1e-5)
        assert (found[token].flatten() < own - 0.1).sum() == 5


def test_a_moved_token_peaks_where_it_came_from(images, patches):
    found = token_localization(patches[:, [1, 2, 3, 4, 5, 0]], images, GRID)
    assert found.flatten(1).argmax(1).tolist() == [1, 2, 3, 4, 5, 0]


def test_every_pair_is_the_unbiased_cka_of_that_pair(images):
    tokens = torch.randn(12, 6, 5) + images.mean(dim=(1, 2, 3))[:, None, None]
    found = token_localization(tokens, images, GRID)
    for token in range(6):
        for row in range(2):
            for col in range(3):
                pair = UnbiasedCKA().update(tokens[:, token].double(), cut(images, row, col).double()).result()
                assert found[token, row, col].item() == pytest.approx(pair.item(), abs=1e-12)


def test_a_patch_that_never_changes_is_nan(images, patches):
    images[:, :, :2, :3] = 0
    found = token_localization(patches, images, GRID)
    assert found[:, 0, 0].isnan().all() and found.flatten(1)[:, 1:].isfinite().all()


def test_mistakes_are_told(images, patches):
    for arguments, message in (
            ((patches[:, 1:], images, GRID), r'tokens must be \(12, 6, C\) .* got \(12, 5, 12\)'),
            ((patches, images[..., :8], GRID), 'multiples of the grid 2 x 3'),
            ((patches[:3], images[:3], GRID), 'at least 4 examples')):
        with pytest.raises(UserError, match=message):
            token_localization(*arguments)
