"""k-NN against a loop that follows the definition."""
from math import exp, sqrt

import pytest
import torch

from pervit_mm.evaluation import neighbours
from pervit_mm.evaluation.neighbours import knn_accuracy
from pervit_mm.utils.errors import UserError


def by_definition(bank, bank_labels, queries, query_labels, k, temperature):
    right = 0
    for query, truth in zip(queries.tolist(), query_labels.tolist()):
        found = []
        for vector, label in zip(bank.tolist(), bank_labels.tolist()):
            product = sum(a * b for a, b in zip(query, vector))
            length = sqrt(sum(a * a for a in query) * sum(b * b for b in vector))
            found.append((product / length, label))
        votes = {}
        for similarity, label in sorted(found, reverse=True)[:k]:
            votes[label] = votes.get(label, 0) + exp(similarity / temperature)
        right += max(votes, key=votes.get) == truth
    return 100 * right / len(queries)


@pytest.fixture
def data():
    """Three overlapping classes, far from the origin in one direction."""
    centers = 0.7 * torch.randn(3, 5)
    labels = torch.randint(0, 3, (60, ))
    features = centers[labels] + torch.randn(60, 5) + 1
    return features[:40], labels[:40], features[40:], labels[40:]


@pytest.mark.parametrize('temperature', [0.07, 1.])
def test_votes_are_those_of_the_definition(data, temperature, monkeypatch):
    result = knn_accuracy(*data, k=(20, 1, 5), temperature=temperature)
    assert list(result) == [1, 5, 20] and len(set(result.values())) > 1
    for k, accuracy in result.items():
        assert accuracy == pytest.approx(by_definition(*data, k, temperature))
    monkeypatch.setattr(neighbours, '_MOST_SIMILARITIES', 40 * 3)
    assert knn_accuracy(*data, k=(20, 1, 5), temperature=temperature) == result  # in parts of three queries


def test_the_nearest_wins_when_the_temperature_is_low():
    """One near neighbor outvotes two far ones at a low temperature, not at a high one."""
    bank, labels = torch.tensor([[1., 0.1], [0., 1.], [0., 1.]]), torch.tensor([0, 1, 1])
    query, truth = torch.tensor([[1., 0.]]), torch.tensor([0])
    assert knn_accuracy(bank, labels, query, truth, (3, ), 1e-3) == {3: 100.}  # exp(1 / 1e-3) would overflow
    assert knn_accuracy(bank, labels, query, truth, (3, ), 10.) == {3: 0.}


def test_lengths_of_features_play_no_part(data):
    bank, bank_labels, queries, query_labels = data
    scaled = bank * torch.rand(40, 1).add(0.1), bank_labels, queries * 1e3, query_labels
    assert knn_accuracy(*scaled, k=(5, )) == knn_accuracy(*data, k=(5, ))


def test_mistakes_are_told(data):
    bank, bank_labels, queries, query_labels = data
    for arguments, message in (
            (data, r'k must be integers from 1 to the 40 images of the bank, got \(10, 20, 100, 200\)'),
            ((*data, (0, )), r'got \(0,\)'),
            ((*data, (5, ), 0.), 'temperature must be above 0, got 0.0'),
            ((bank, bank_labels[:3], queries, query_labels, (5, )), 'the bank labels must be 40 integers'),
            ((bank, bank_labels, queries, query_labels.float(), (5, )), 'the query labels must be 20 integers'),
            ((bank, bank_labels, queries, None, (5, )), 'the query features have no labels'),
            ((bank[:, :4], bank_labels, queries, query_labels, (5, )), 'same width, got 4 and 5'),
            ((bank[:, :, None], bank_labels, queries, query_labels, (5, )), r'floating point \(n, C\), got'),
            ((bank / 0, bank_labels, queries, query_labels, (5, )), 'the bank features hold NaN or infinity')):
        with pytest.raises(UserError, match=message):
            knn_accuracy(*arguments)
