"""Rows of the table of baselines, against the measures called one by one."""
import csv
from statistics import mean, stdev

import pytest
import torch

from pervit_mm.evaluation import (
    Features,
    baseline_records,
    baseline_table,
    center_features,
    draw_shots,
    few_shot_knn,
    few_shot_probe,
    knn_accuracy,
    linear_probe,
    measure_features,
    pixel_features,
    write_csv,
)
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')
SEEDS = (3, 0, 5)


def clouds(count):
    """Three overlapping classes, far from the origin."""
    labels = torch.arange(count) % 3
    centers = torch.tensor([[1., 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    return Features(centers[labels] + 0.8 * torch.randn(count, 4) + 2, {}, labels)


@pytest.fixture
def data():
    return clouds(90), clouds(60)


def test_a_row_holds_what_each_measure_says(data):
    pytest.importorskip('sklearn')
    bank, queries = data
    row = measure_features('clouds', bank, queries, k=(5, 30), shots=4, seeds=SEEDS, full_probe=True)
    whole = bank.output, bank.labels, queries.output, queries.labels
    assert (row.features, row.bank, row.queries, row.shots, row.seeds) == ('clouds', 90, 60, 4, SEEDS)
    assert row.knn == knn_accuracy(*whole, (5, 30))
    assert row.full_probe == linear_probe(*whole)
    assert row.few_k == 12, 'of 3 classes with 4 images each'
    drawn = [draw_shots(bank.labels, 4, seed) for seed in SEEDS]
    votes = [knn_accuracy(bank.output[part], bank.labels[part], queries.output, queries.labels, (12, ))[12]
             for part in drawn]
    assert row.few_knn.top1 == tuple(votes) and len(set(votes)) > 1
    assert (row.few_knn.mean, row.few_knn.deviation) == (mean(votes), stdev(votes))
    with_blocks = [Features(part.output, {7: part.output}, part.labels) for part in data]
    assert row.few_probe == few_shot_probe(*with_blocks, [7], 4, SEEDS)
    assert measure_features('', bank, queries, (5, ), 4, SEEDS).full_probe is None


def test_twenty_neighbors_vote_where_there_are_as_many_labels(data):
    bank, queries = data
    parts = [draw_shots(bank.labels, 9, seed) for seed in SEEDS]
    votes = {k: tuple(knn_accuracy(bank.output[part], bank.labels[part], queries.output, queries.labels, (k, ))[k]
                      for part in parts) for k in (20, 27)}
    assert few_shot_knn(bank, queries, 9, SEEDS).top1 == votes[20] != votes[27]


def test_centering_takes_the_mean_of_the_bank_from_both(data):
    bank, queries = center_features(*data)
    center = data[0].output.sum(0) / 90
    torch.testing.assert_close(bank.output, data[0].output - center)
    torch.testing.assert_close(queries.output, data[1].output - center)
    assert torch.equal(bank.labels, data[0].labels) and torch.equal(queries.labels, data[1].labels)


def test_pixels_are_those_of_the_pipeline_not_normalized():
    pytest.importorskip('mmpretrain')
    from mmpretrain.structures import DataSample
    images = torch.randint(0, 256, (5, 2, 3, 4), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(label) for label in (1, 0, 2, 0, 1)]
    loaded = [dict(inputs=images[:3], data_samples=samples[:3]), dict(inputs=images[3:], data_samples=samples[3:])]
    features = pixel_features(loaded)
    assert features.output.dtype == torch.float32 and torch.equal(features.output, images.flatten(1).float())
    assert features.labels.tolist() == [1, 0, 2, 0, 1]
    assert torch.equal(pixel_features([(images, None)]).output, features.output)


def test_table_and_csv_hold_the_same_numbers(data, tmp_path):
    pytest.importorskip('sklearn')
    rows = [measure_features(name, *part, (5, 10), 4, SEEDS, True)
            for name, part in (('as is', data), ('centered', center_features(*data)))]
    lines = [[cell.strip() for cell in line.strip('|').split('|')] for line in baseline_table(rows).splitlines()]
    assert lines[0] == ['features', 'bank', 'queries', 'k-NN, k = 5', 'k-NN, k = 10', 'k-NN, k = 12, 4 a class',
                        'linear probe, 4 a class', 'linear probe, all labels']
    write_csv(baseline_records(rows), tmp_path / 'probe.csv')
    with open(tmp_path / 'probe.csv', newline='') as file:
        records = list(csv.DictReader(file))
    assert len(records) == 2 * (2 + 3 + 3 + 1)
    for line, row in zip(lines[2:], rows):
        own = [record for record in records if record['features'] == row.features]

        def values(own=own, **wanted):
            return [float(record['top1']) for record in own if all(record[key] == wanted[key] for key in wanted)]

        few = [values(method=method, shots='4') for method in ('knn', 'linear')]
        assert line == [row.features, '90', '60', f'{row.knn[5]:.1f}', f'{row.knn[10]:.1f}',
                        *(f'{mean(draws):.1f} ± {stdev(draws):.1f}' for draws in few), f'{row.full_probe.top1:.1f}']
        assert values(method='knn', k='10', seed='') == [pytest.approx(row.knn[10])]
        assert values(method='linear', k='', shots='', seed='') == [pytest.approx(row.full_probe.top1)]
        assert values(method='linear', seed='5') == [pytest.approx(row.few_probe.top1[2])]
    assert {(record['bank'], record['queries']) for record in records} == {('90', '60')}


def test_mistakes_are_told(data):
    bank, queries = data
    unlabeled = Features(bank.output, {}, None)
    for call, message in (
            (lambda: few_shot_knn(bank, queries, 4, (1, 1)), r'at least two different numbers, got \(1, 1\)'),
            (lambda: few_shot_knn(bank, queries, 31), 'shots must be from 1 to 30'),
            (lambda: few_shot_knn(unlabeled, queries, 3), 'the bank features have no labels'),
            (lambda: measure_features('', bank, queries, (91, )), 'k must be integers from 1 to the 90 images')):
        with pytest.raises(UserError, match=message):
            call()
