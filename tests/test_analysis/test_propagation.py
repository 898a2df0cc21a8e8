"""Label propagation against one-hot features, and against the definition in loops."""
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pervit_mm.analysis import propagation
from pervit_mm.analysis.propagation import (
    PROTOCOLS,
    Protocol,
    draw_overlay,
    fuse_features,
    labels_of_mask,
    mask_of_labels,
    propagate_labels,
)
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')
H, W = 5, 6


def moving(steps):
    """Features in which every token is of its own kind, and labels, rolled by whole tokens (rows, columns)."""
    features = torch.eye(H * W).view(H, W, -1)
    labels = torch.zeros(3, H, W)
    labels[1, 1:3, 1:4] = labels[2, 4, 5] = 1
    labels[0] = 1 - labels.sum(0)
    video = torch.stack([features.roll(step, dims=(0, 1)) for step in steps])
    return video, torch.stack([labels.roll(step, dims=(1, 2)) for step in steps])


@pytest.mark.parametrize('name', ['dino', 'sfc'])
def test_one_hot_features_move_the_mask_exactly(name):
    steps = [(t, 2 * t) for t in range(12)]
    features, expected = moving(steps)
    protocol = dataclasses.replace(PROTOCOLS[name], top=1)
    torch.testing.assert_close(propagate_labels(features, expected[0], protocol), expected)
    # The other tokens of the top have similarity 0, and so a weight of exp(-10) relative to the right one.
    soft = propagate_labels(features, expected[0], PROTOCOLS[name])
    assert (soft - expected).abs().max() < 2 * 14 * math.exp(-10)
    assert torch.equal(soft.argmax(1), expected.argmax(1))
    torch.testing.assert_close(soft.sum(1), torch.ones(12, H, W))


def by_definition(features, labels, protocol):
    """``propagate_labels`` in loops over tokens."""
    maps = [labels]
    places = [(row, col) for row in range(H) for col in range(W)]
    for frame in range(1, len(features)):
        result = torch.zeros_like(labels)
        for row, col in places:
            found = []
            for source in sorted({0, *range(max(0, frame - protocol.frames), frame)}):
                for y, x in places:
                    step = (math.hypot(y - row, x - col) if protocol.circular else max(abs(y - row), abs(x - col)))
                    near = step < protocol.radius if protocol.circular else step <= protocol.radius
                    if near or (source == 0 and not protocol.limits_first):
                        cosine = F.cosine_similarity(features[frame, row, col], features[source, y, x], dim=0)
                        found.append((cosine.item(), maps[source][:, y, x]))
            found.sort(key=lambda pair: -pair[0])
            weights = [math.exp(cosine / protocol.temperature) for cosine, _ in found[:protocol.top]]
            result[:, row, col] = sum(weight * label for weight, (_, label) in zip(weights, found)) / sum(weights)
        maps.append(result)
    return torch.stack(maps)


@pytest.mark.parametrize('circular', [False, True])
@pytest.mark.parametrize('limits_first', [False, True])
def test_labels_follow_their_definition(circular, limits_first, monkeypatch):
    monkeypatch.setattr(propagation, '_MAX_SIMILARITIES', 300)  # so that a frame is done in several parts
    features = torch.randn(5, H, W, 4, dtype=torch.float64)
    labels = torch.rand(3, H, W, dtype=torch.float64)
    protocol = Protocol(frames=2, radius=2, circular=circular, limits_first=limits_first, top=3, temperature=0.2)
    torch.testing.assert_close(propagate_labels(features, labels, protocol), by_definition(features, labels, protocol))


def test_the_radius_excludes_the_first_frame_in_sfc_alone():
    # The object jumps further than the radius. SFC finds it in the first frame, DINO nowhere.
    features, expected = moving([(0, 0), (0, 3)])
    for name, found in (('dino', False), ('sfc', True)):
        protocol = dataclasses.replace(PROTOCOLS[name], radius=2, top=1)
        assert torch.equal(propagate_labels(features, expected[0], protocol), expected) is found
    assert (PROTOCOLS['dino'].frames, PROTOCOLS['dino'].radius, PROTOCOLS['dino'].top) == (7, 12, 5)
    assert (PROTOCOLS['sfc'].frames, PROTOCOLS['sfc'].radius, PROTOCOLS['sfc'].top) == (20, 15, 15)
    assert {protocol.temperature for protocol in PROTOCOLS.values()} == {0.1}


def test_fused_similarity_is_the_weighted_mean():
    fine, semantic = torch.randn(2, 5), torch.randn(2, 3)
    similarity = fuse_features(fine, semantic).prod(0).sum()
    parts = [F.cosine_similarity(x[0], x[1], dim=0) for x in (fine, semantic)]
    torch.testing.assert_close(similarity, (1.75**2 * parts[0] + parts[1]) / (1.75**2 + 1))


def test_masks_become_labels_and_come_back():
    mask = np.zeros((20, 24), np.uint8)
    mask[4:12, 8:20] = 255
    mask[16:, :4] = 7
    labels, values = labels_of_mask(mask, (5, 6))
    assert values.tolist() == [0, 7, 255] and labels.shape == (3, 5, 6)
    assert torch.equal(labels[2], F.pad(torch.ones(2, 3), (2, 1, 1, 2))) and labels[1].nonzero().tolist() == [[4, 0]]
    quarter, _ = labels_of_mask(np.pad(np.ones((2, 2), bool), ((0, 2), (0, 2))), (1, 1))
    assert quarter.flatten().tolist() == [0.75, 0.25]
    back = mask_of_labels(labels, values, (20, 24))
    assert back.dtype == np.uint8 and (back != mask).mean() < 0.03, 'corners are rounded'
    grey = np.full((20, 24, 3), 100, np.uint8)
    tinted = draw_overlay(grey, mask, values)
    assert (tinted[mask == 0] == 100).all() and (tinted[mask != 0] != 100).any(axis=1).all()
    assert np.unique(tinted[mask == 255], axis=0).tolist() != np.unique(tinted[mask == 7], axis=0).tolist()


def test_mistakes_get_one_sentence():
    with pytest.raises(UserError, match=r'must have one grid, got \(2, 4, 4, 3\) and \(2, 4, 5\)'):
        propagate_labels(torch.zeros(2, 4, 4, 3), torch.zeros(2, 4, 5))
    with pytest.raises(UserError, match='mask must have at most 64 labels, got 65 values'):
        labels_of_mask(np.arange(65)[None], (1, 1))
    with pytest.raises(UserError, match=r'mask must be \(h, w\) .* got shape \(4, 4, 3\)'):
        labels_of_mask(np.zeros((4, 4, 3), np.uint8), (1, 1))
    with pytest.raises(UserError, match='fine and semantic must be of the same tokens'):
        fuse_features(torch.zeros(2, 3), torch.zeros(4, 3))
