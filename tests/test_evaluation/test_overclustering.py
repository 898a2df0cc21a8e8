"""Clusters of tokens against label maps: by loops over pixels, and where the answer is known."""
import numpy as np
import pytest
import torch

from pervit_mm.evaluation import class_counts, overclustering_iou
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')
pytest.importorskip('sklearn')


def blobs(of_tokens, spread=0.01):
    """Features that lie close together where the number is the same, one place in the plane for each number."""
    places = torch.tensor([[0., 0.], [9, 0], [0, 9], [9, 9], [20, 4]])
    return places[torch.as_tensor(of_tokens)] + spread * torch.randn(len(of_tokens), 2)


def test_pixels_of_each_class_are_counted_token_by_token():
    labels = torch.randint(0, 4, (2, 6, 8))
    labels[0, :2] = 255
    found = class_counts(labels.byte(), (2, 4), 3)  # 3 is no class
    assert found.shape == (2, 8, 3)
    for image in range(2):
        for token in range(8):
            row, column = divmod(token, 4)
            pixels = labels[image, 3 * row:3 * row + 3, 2 * column:2 * column + 2].flatten().tolist()
            assert found[image, token].tolist() == [pixels.count(label) for label in range(3)]


def test_the_iou_is_that_of_all_pixels():
    """Five clusters, three classes, tokens of mixed pixels; each pixel is compared by itself."""
    of_tokens = torch.arange(40) % 5
    labels = torch.where(torch.rand(40, 3, 4) < 0.6, torch.tensor([0, 0, 1, 2, 0])[of_tokens][:, None, None],
                         torch.randint(0, 3, (40, 3, 4)))
    found = overclustering_iou(blobs(of_tokens), class_counts(labels, (1, 1), 3)[:, 0], clusters=5)
    pixels = [(int(of_tokens[token]), int(label)) for token in range(40) for label in labels[token].flatten()]
    match = {cluster: max(range(3), key=lambda label: pixels.count((cluster, label))) for cluster in range(5)}
    expected = []
    for label in range(3):
        both = sum(match[cluster] == label and true == label for cluster, true in pixels)
        either = sum(match[cluster] == label or true == label for cluster, true in pixels)
        expected.append(100 * both / either)
    np.testing.assert_allclose(found.iou, expected)
    assert found.miou == pytest.approx(sum(expected) / 3) and sorted(found.matches) == sorted(match.values())


def test_known_answers():
    """Pure clusters give 100. Of one cluster all is ground. A class without a pixel is left out."""
    counts = torch.eye(5)[torch.arange(50) % 5]
    assert overclustering_iou(blobs(torch.arange(50) % 5), counts, clusters=5).miou == pytest.approx(100)
    counts = torch.tensor([[6, 0, 0], [0, 2, 0]]).repeat(10, 1)
    one = overclustering_iou(blobs(torch.arange(20) % 2), counts, clusters=1)
    assert one.iou.tolist() == [75, 0] and one.miou == 37.5 and one.matches.tolist() == [0]


def test_a_feature_of_large_values_does_not_decide_alone():
    """Noise of a thousand times the size of the other feature: features are standardized."""
    of_tokens = torch.arange(200) % 2
    features = torch.stack([of_tokens * 1e-3, torch.rand(200)], 1)
    found = overclustering_iou(features, torch.eye(2)[of_tokens], clusters=4)
    assert found.miou == pytest.approx(100)


def test_a_seed_repeats_and_a_sample_is_enough():
    features, counts = blobs(torch.arange(500) % 5, spread=3.), torch.eye(5)[torch.arange(500) % 5]
    first = overclustering_iou(features, counts, clusters=9, seed=1, sample=100)
    again = overclustering_iou(features, counts, clusters=9, seed=1, sample=100)
    assert torch.equal(first.iou, again.iou) and torch.equal(first.matches, again.matches)
    assert not torch.equal(first.iou, overclustering_iou(features, counts, clusters=9, seed=2, sample=100).iou)


@pytest.mark.parametrize('call, message', [
    (lambda: overclustering_iou(torch.zeros(4, 2), torch.zeros(3, 2)), r'features must be \(n, C\)'),
    (lambda: overclustering_iou(torch.zeros(4, 2), torch.zeros(4, 2)), 'not all of them 0'),
    (lambda: overclustering_iou(torch.zeros(4, 2), torch.ones(4, 2)), 'clusters must be from 1 to .* 4, got 50'),
    (lambda: class_counts(torch.zeros(1, 5, 4).long(), (2, 2), 3), r'multiples of the grid \(2, 2\)'),
])
def test_mistakes(call, message):
    with pytest.raises(UserError, match=message):
        call()
