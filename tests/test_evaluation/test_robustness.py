"""Accuracies of predictors whose answers can be counted, and what is written about them."""
import csv

import pytest
import torch

from pervit_mm.evaluation.robustness import CLEAN, CONDITIONS, Condition, make_attacks, make_conditions, measure
from pervit_mm.evaluation.robustness_report import draw_curves, robustness_table, save_figure, summarize, write_csv


def by_brightness(pixels):
    """Class 1 if the mean is above 100."""
    score = pixels.mean((1, 2, 3)) - 100
    return torch.stack([-score, score], 1)


PIXELS = torch.tensor([40., 90., 110., 200.]).view(4, 1, 1, 1).expand(4, 1, 4, 4).contiguous()
LABELS = torch.tensor([0, 0, 1, 1])


def rows_of(condition, seeds=(0, 1), **kwargs):
    return list(measure(by_brightness, PIXELS, LABELS, condition, seeds, **kwargs))


def test_accuracies_are_counted():
    """Salient patches become 0: with half of them gone, 110 falls to 55 and 200 to 100."""
    condition, = make_conditions(['drop_salient'], (4, 4), torch.rand(4, 2, 2))
    rows = rows_of(condition, batch_size=3)
    assert [row['level'] for row in rows] == [i / 10 for i in range(1, 10)]
    assert [row['correct'] for row in rows] == [4, 4, 3, 3, 2, 2, 2, 2, 2]  # 0, 0, 1, 1, 2, 2, 2, 3, 3 patches of 4
    assert [row['removed'] for row in rows] == [i * 4 // 10 / 4 for i in range(1, 10)]
    assert [row['accuracy'] for row in rows] == [25 * row['correct'] for row in rows]
    assert all(row['seed'] is None and row['images'] == 4 and 'zero' in row['unit'] for row in rows)


def test_chance_runs_once_for_each_seed():
    def perturb(pixels, index, level, generator):
        return pixels + 100 * torch.rand(len(pixels), 1, 1, 1, generator=generator), None

    chance = Condition('made up', (1, 2), 'none', True, perturb)
    rows = rows_of(chance, seeds=(5, 7, 5))
    assert [(row['level'], row['seed']) for row in rows] == [(1, 5), (1, 7), (1, 5), (2, 5), (2, 7), (2, 5)]
    for row in rows:  # all levels draw alike
        draw = torch.rand(4, generator=torch.Generator().manual_seed(row['seed']))
        expected = ((PIXELS[:, 0, 0, 0] + 100 * draw > 100) == LABELS.bool()).sum()
        assert row['correct'] == expected


@pytest.mark.parametrize('fill, random', [('zero', False), ('mean', False), ('noise', True)])
def test_each_condition_says_whether_a_seed_matters(fill, random):
    saliency = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(3))
    pixels = 255 * torch.rand(2, 1, 28, 28)
    for condition in make_conditions(CONDITIONS, (28, 28), saliency, fill):
        level = condition.levels[2]
        first, other = (condition.perturb(pixels, slice(0, 2), level, torch.Generator().manual_seed(seed))[0]
                        for seed in (5, 6))
        assert torch.equal(first, other) != condition.random, condition.name
        assert first.shape == pixels.shape and not torch.equal(first, pixels)
    assert condition.levels == (1, 2, 3, 4, 5)
    drops = {c.name: c.random for c in make_conditions(CONDITIONS[:3], (28, 28), saliency, fill)}
    assert drops == dict(drop_random=True, drop_salient=random, drop_non_salient=random)


def test_levels_go_by_the_size_of_the_image():
    shuffle, low, _ = make_conditions(['shuffle', 'low_pass', 'high_pass'], (28, 28))
    assert shuffle.levels == (2, 4, 7, 14) and low.levels == (2, 4, 6, 8, 10, 12, 14)
    assert make_conditions(['shuffle'], (224, 224))[0].levels == (2, 4, 7, 8, 14, 16)
    assert make_conditions(['low_pass'], (224, 280))[0].levels[-1] == 112


def test_attacks_lower_the_accuracy():
    pytest.importorskip('captum')
    pixels, labels = PIXELS.clone(), LABELS
    pixels[1] = 97  # 8 / 255 carries it over the border, 2 / 255 doesn't
    for attack in make_attacks(['fgsm', 'pgd'], by_brightness, labels):
        rows = list(measure(by_brightness, pixels, labels, attack, [0]))
        assert [(row['level'], row['correct']) for row in rows] == [(1, 4), (2, 4), (4, 3), (8, 3)]


@pytest.mark.parametrize('call, message', [
    (lambda: make_conditions(['fog'], (28, 28)), "conditions must be among drop_random, .*, got 'fog'"),
    (lambda: make_conditions(['shuffle'], (29, 29)), 'no grid of 2 to 16 tiles a side divides 29 x 29'),
    (lambda: make_conditions(['drop_salient'], (28, 28)), 'saliency must be given for drop_salient'),
    (lambda: make_conditions([], (28, 28), fill='gray'), "fill must be one of .*, got 'gray'"),
    (lambda: make_attacks(['cw'], by_brightness, LABELS), "attacks must be among fgsm, pgd, got 'cw'"),
    (lambda: rows_of(CLEAN, seeds=()), r'seeds must be at least one .* got \[\]'),
    (lambda: list(measure(by_brightness, PIXELS, LABELS[:2], CLEAN, [0])), 'labels must be .* 4 images, got 2'),
    (lambda: list(measure(by_brightness, PIXELS, None, CLEAN, [0])), 'labels must be .* got None'),
    (lambda: list(measure(by_brightness, PIXELS - 100, LABELS, CLEAN, [0])), r'pixels must be in \[0, 255\], got -60'),
])
def test_wrong_arguments_are_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def made_rows():
    """Two models under one condition by chance, and the clean images."""
    common = dict(unit='strength', images=200)
    rows = []
    for model, accuracies in (('a', (50., 53., 59.)), ('b', (70., 70., 70.))):
        rows.append(dict(model=model, condition='clean', level=0, seed=None, correct=180, accuracy=90., removed=None,
                         **common))
        rows += [dict(model=model, condition='drop_random', level=0.5, seed=seed, correct=round(2 * accuracy),
                      accuracy=accuracy, removed=0.25 + 0.01 * seed, **common)
                 for seed, accuracy in enumerate(accuracies)]
    return rows


def test_mean_and_deviation_by_hand():
    clean, dropped, *_ = summarize(made_rows())
    assert (clean['mean'], clean['deviation'], clean['runs']) == (90, None, 1)
    assert dropped['mean'] == 54 and dropped['deviation'] == pytest.approx(21**0.5)  # (16 + 1 + 25) / 2
    assert dropped['runs'] == 3 and dropped['removed'] == pytest.approx(0.26)
    table = robustness_table(summarize(made_rows())).splitlines()
    assert table[0] == '| condition | level | removed | a | b |'
    assert table[2:] == ['| clean | 0 |  | 90.0 | 90.0 |', '| drop_random | 0.5 | 26 % | 54.0 ± 4.6 | 70.0 ± 0.0 |']


def test_checkpoints_of_one_model_are_its_seeds():
    """Means 50 and 60 of two checkpoints, whatever their draws did."""
    rows = [dict(row, checkpoint=checkpoint, accuracy=row['accuracy'] + shift) for row in made_rows()
            if row['model'] == 'a' and row['condition'] != 'clean' for checkpoint, shift in (('x', -4.), ('y', 6.))]
    dropped, = summarize(rows)
    assert dropped['mean'] == pytest.approx(55) and dropped['deviation'] == pytest.approx(50**0.5)
    assert dropped['runs'] == 2


def test_the_csv_holds_every_run(tmp_path):
    rows = made_rows()
    write_csv(rows, tmp_path / 'robustness.csv')
    with open(tmp_path / 'robustness.csv', newline='') as file:
        read = list(csv.DictReader(file))
    assert read == [{key: '' if value is None else str(value) for key, value in row.items()} for row in rows]
    with pytest.raises(ValueError, match='cannot be written'):
        write_csv(rows, tmp_path / 'nowhere' / 'robustness.csv')


def test_the_curves_show_the_means(tmp_path):
    figure = draw_curves(summarize(made_rows()), 'made up')
    axes = figure.axes[0]
    assert axes.get_title() == 'drop random' and axes.get_xlabel() == 'strength'
    bars = axes.containers
    assert [bar.lines[0].get_ydata().tolist() for bar in bars] == [[54], [70]]
    low, high = bars[0].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((54 - 21**0.5, 54 + 21**0.5))
    save_figure(figure, tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').read_bytes().startswith(b'\x89PNG')


def test_patches_drop_at_random_without_a_saliency():
    """On a grid of 2 x 2 for an image of 4 pixels a side: half of the patches are two."""
    condition, = make_conditions(['drop_random'], (4, 4))
    changed, removed = condition.perturb(PIXELS, slice(None), 0.5, torch.Generator().manual_seed(0))
    assert [int((image == 0).sum()) for image in changed] == [8] * 4 and removed == pytest.approx([0.5] * 4)
