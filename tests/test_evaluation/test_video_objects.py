"""Objects that are followed through a video: J by counting pixels, and features whose answer is known."""
import numpy as np
import pytest
import torch

from pervit_mm.evaluation import follow_objects, pixel_tokens, region_similarity
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')


def test_region_similarity_counts_pixels():
    truth = np.zeros((4, 5, 6), np.uint8)
    truth[:, 1:3, 1:5], truth[:3, 4, 4:] = 1, 9
    found = truth.copy()
    found[0] = 0  # the first frame doesn't count
    found[1, 2] = 0  # half of the first object
    found[2, 1:3, 0], found[2, 4] = 1, 0  # two pixels too many; the second object is lost
    expected = {1: np.mean([4 / 8, 8 / 10, 1]), 9: np.mean([1, 0, 1])}  # hidden and not found: 1
    assert region_similarity(found, truth) == pytest.approx(expected)
    assert follow_objects(None, truth) == pytest.approx({1: 1, 9: np.mean([1, 1, 0])})


def test_a_shift_by_whole_tokens_propagates_with_iou_1():
    """Pixels of a random texture that rolls by whole tokens, with two objects of whole tokens."""
    texture, mask = torch.randn(1, 40, 48), torch.zeros(10, 12, dtype=torch.uint8)
    mask[1:4, 2:6], mask[7:9, 3:11] = 1, 5
    steps = [(t, 2 * t) for t in range(8)]
    images = torch.stack([texture.roll((4 * dy, 4 * dx), (1, 2)) for dy, dx in steps])
    masks = np.stack([mask.roll(step, (0, 1)).numpy() for step in steps])
    assert follow_objects(pixel_tokens(images, 4), masks) == {1: 1, 5: 1}
    assert max(follow_objects(None, masks).values()) < 0.3
    assert max(follow_objects(torch.ones(8, 10, 12, 3), masks).values()) < 0.3, 'features that tell nothing apart'


def test_pixel_tokens_are_the_pixels_around_each_token():
    images = torch.randn(2, 3, 8, 12)
    assert torch.equal(pixel_tokens(images, 4)[1, 1, 2], images[1, :, 4:, 8:].flatten())
    wide = pixel_tokens(images, 4, 8)
    assert wide.shape == (2, 2, 3, 3 * 8 * 8)
    assert torch.equal(wide[0, 0, 1], torch.nn.functional.pad(images[0], (2, 2, 2, 2))[:, :8, 4:12].flatten())


def test_mistakes():
    masks = np.zeros((3, 4, 4), np.uint8)
    with pytest.raises(UserError, match='truth must have an object in its first frame'):
        region_similarity(masks, masks)
    with pytest.raises(UserError, match=r'at least two, got \(1, 4, 4\) and \(1, 4, 4\)'):
        region_similarity(masks[:1], masks[:1])
    with pytest.raises(UserError, match='size must be stride plus an even number, got sides'):
        pixel_tokens(torch.zeros(1, 1, 8, 8), 4, 5)
