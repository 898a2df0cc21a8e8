"""Co-segmentation of images whose regions are known."""
import math

import pytest
import torch
from torch.nn import functional as F

from pervit_mm.analysis.cosegmentation import cosegment, elbow_clusters
from pervit_mm.utils.errors import UserError

pytest.importorskip('sklearn')
pytestmark = pytest.mark.usefixtures('one_thread')


def two_regions(noise=0.):
    """Three images, each an object at another place before a background; masks, descriptors and saliency."""
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, 1:4, 2:5] = masks[1, 2:6, 4:8] = masks[2, :3, :4] = True
    descriptors = torch.where(masks[..., None], torch.tensor([1., 2, 0]), torch.tensor([0., -1, 1]))
    return masks, descriptors + noise * torch.randn(descriptors.shape), masks.float()


def test_two_regions_give_two_masks():
    masks, descriptors, saliency = two_regions()
    found = cosegment(descriptors, saliency)
    assert found.masks.dtype == torch.bool and torch.equal(found.masks, masks)
    assert found.labels.unique().numel() == 2 and sorted(found.votes.tolist()) == [0, 3]
    assert torch.equal(cosegment(3 * descriptors, 1 - saliency).masks, ~masks), 'length does not matter'


def test_the_result_is_the_same_each_time():
    masks, descriptors, saliency = two_regions(noise=0.05)
    found = cosegment(descriptors, saliency)
    assert torch.equal(found.masks, masks) and torch.equal(cosegment(descriptors, saliency).labels, found.labels)


def test_a_cluster_needs_votes_of_enough_images():
    masks, descriptors, saliency = two_regions()
    saliency[2] = 1 - saliency[2]
    assert not cosegment(descriptors, saliency).masks.any(), 'two of three are fewer than three quarters'
    assert torch.equal(cosegment(descriptors, saliency, votes=0.6).masks, masks)
    descriptors[2] = descriptors[0, 0, 0]  # the object is not in the third image, which cannot vote for it
    found = cosegment(descriptors, two_regions()[2], votes=0.6)
    assert torch.equal(found.masks[:2], masks[:2]) and not found.masks[2].any()
    assert sorted(found.votes.tolist()) == [0, 2]


def test_the_elbow_counts_clusters_by_definition():
    # Four tight groups. Two clusters then leave pairs of groups, four leave the groups, and more gain little.
    angles = torch.tensor([0., 0.5, 2., 2.5]).repeat_interleave(40) + 0.01 * torch.randn(160)
    points = torch.stack((angles.cos(), angles.sin()), dim=1)
    groups = torch.arange(4).repeat_interleave(40)
    labels = elbow_clusters(points, elbow=0.01)
    # The sum of two clusters is about 0.06 of the sum of one, so an elbow of 0.01 takes two.
    assert labels.unique().numel() == 2 and torch.equal(labels == labels[0], groups < 2)
    # The third cluster halves the sum, the fourth leaves 0.01 of it, and the fifth halves one group of four. So an
    # elbow of 0.6 rejects the fifth, and takes it.
    five = elbow_clusters(points, elbow=0.6)
    assert five.unique().numel() == 5 and all(
        set(five[groups == a].tolist()).isdisjoint(five[groups == b].tolist()) for a in range(4) for b in range(a))
    exact = F.normalize(torch.eye(5).repeat(3, 1), dim=1)
    assert elbow_clusters(exact).unique().numel() == 5, 'no cluster is added to a sum of zero'
    assert elbow_clusters(exact[:1].repeat(4, 1)).tolist() == [0] * 4
    assert elbow_clusters(torch.randn(100, 3), most=3).unique().numel() == 3


@pytest.mark.parametrize('change, message', [
    (dict(descriptors=torch.zeros(1, 2, 2, 3)), r'at least two images, .* got \(1, 2, 2, 3\)'),
    (dict(saliency=torch.zeros(2, 2)), r'saliency must be \(2, 2, 2\) as the descriptors are, got \(2, 2\)'),
    (dict(elbow=0), 'elbow must be above 0 and at most 1, got 0'),
    (dict(votes=75), 'votes must be above 0 and at most 1, got 75'),
    (dict(votes=math.nan), 'votes must be above 0 and at most 1, got nan'),
])
def test_mistakes_get_one_sentence(change, message):
    arguments = dict(descriptors=torch.zeros(2, 2, 2, 3), saliency=torch.zeros(2, 2, 2))
    with pytest.raises(UserError, match=message):
        cosegment(**{**arguments, **change})
