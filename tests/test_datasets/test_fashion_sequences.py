"""FashionSequences: known masks, movement, scale and order, and what a sequence depends on."""
import numpy as np
import pytest
from made_items import make_fashion_mnist, make_items

from pervit_mm.datasets import FashionSequences
from pervit_mm.datasets.fashion_sequences import FRAMES, LEAST_WAY, SIDE
from pervit_mm.utils.errors import UserError


def squares(split='train', seed=0):
    """Items that fill their square."""
    return FashionSequences(np.full((5, 28, 28), 255, np.uint8), np.zeros(5, np.uint8), split, seed)


def test_masks_show_the_items():
    """A white item has one color, up to noise of a deviation of at most 5, and the ground has another."""
    sequences = squares()
    for index in range(4):
        found = sequences.sequence(index)
        assert found.frames.shape == (FRAMES, SIDE, SIDE, 3) and found.frames.dtype == np.uint8
        assert found.owners.shape == (FRAMES, SIDE, SIDE) and found.owners.max() == len(found.items) >= 1
        for number in range(1, len(found.items) + 1):
            pixels = found.frames[found.owners == number].astype(float)
            assert pixels.std(0).max() < 6, 'the color of an item changes, or its mask shows something else'
        first = np.bincount(found.owners[0].ravel())
        assert (first[1:] >= 64).all(), 'an item is hidden in the first frame'


def test_items_move_grow_and_hide_one_another():
    """Seen at the last item, which nothing covers."""
    factors, hidden = [], 0
    for index in range(12):
        owners = squares().sequence(index).owners
        last = owners.max()
        rows, cols = (np.array([np.flatnonzero((owner == last).any(axis))[[0, -1]] for owner in owners[[0, -1]]])
                      for axis in (1, 0))
        sides = rows[:, 1] - rows[:, 0] + 1
        assert (sides == cols[:, 1] - cols[:, 0] + 1).all() and (28 <= sides).all() and (sides <= 56).all()
        way = np.hypot(*(np.diff(axis.mean(1))[0] for axis in (rows, cols)))
        assert way >= LEAST_WAY - 2  # two roundings to whole pixels
        factors.append(sides[1] / sides[0])
        seen = [(owners == number).sum((1, 2)) for number in range(1, last)]
        hidden += sum(bool((area[1:] < 0.5 * area[0]).any()) for area in seen)
    assert min(factors) < 0.8 and max(factors) > 1.25 and hidden


def test_the_ground_drifts_in_sequences_of_an_odd_index():
    for index in range(6):
        found = squares().sequence(index)
        ground = (found.owners[[0, -1]] == 0).all(0)
        change = np.abs(np.diff(found.frames[[0, -1]].astype(float), axis=0)[0][ground])
        # Two frames of one ground differ by noise alone, of a deviation of at most 5 in each.
        assert found.drifts == (index % 2 == 1)
        assert found.drifts or change.mean() < 5 * 2**0.5
    drifting = [squares().sequence(index) for index in (1, 3, 5)]
    assert max(np.abs(np.diff(found.frames[[0, -1]].astype(float), axis=0)[0][(found.owners[[0, -1]] == 0).all(0)]
                      ).mean() for found in drifting) > 8


def test_a_sequence_depends_on_seed_split_and_index_alone():
    images, labels = make_items(0)
    first = FashionSequences(images, labels, 'train', 3).sequence(2)
    again = FashionSequences(images, labels, 'train', 3)
    again.sequence(0)
    assert (again.sequence(2).frames == first.frames).all() and again.sequence(2).items == first.items
    for split, seed, index in (('test', 3, 2), ('train', 4, 2), ('train', 3, 4)):
        assert (FashionSequences(images, labels, split, seed).sequence(index).frames != first.frames).any()
    with pytest.raises(UserError, match='index must be an integer from 0 on, got -1'):
        again.sequence(-1)


def test_sequences_have_the_items_that_are_asked_for(tmp_path):
    images, labels = make_items(0)
    some = FashionSequences(images, labels, 'val', items=[3, 14])
    assert {item for index in range(4) for item in some.sequence(index).items} == {3, 14}
    make_fashion_mnist(tmp_path / 'items')
    again = FashionSequences.from_folder(tmp_path / 'items', 'val', items=[3, 14])
    assert (again.sequence(1).frames == some.sequence(1).frames).all()
    with pytest.raises(UserError, match="items must name the items of split 'val', got None"):
        FashionSequences.from_folder(tmp_path / 'items', 'val')
