"""Tables of ablations, against SciPy and by hand."""
import pytest

from pervit_mm.benchmarks.ablations import (
    Ablation,
    differences_table,
    effects_of_position,
    effects_table,
    read_ablations,
    settings_table,
    write_ablations,
)
from pervit_mm.utils.errors import UserError

TOP1 = {'full': {0: 88., 1: 89., 2: 91.}, 'no-position': {0: 87., 1: 89., 2: 89.},
        'no-cpe': {0: 86., 1: 86., 2: 88.}, 'no-position_no-cpe': {0: 84., 1: 83., 2: 83.}}
DIFFERENCES = [1., 0., 2.], [2., 3., 5.], [1., 3., 3.]


def _text(differences):
    """Mean and interval by SciPy's test of one sample, and its p."""
    from scipy.stats import ttest_1samp
    found = ttest_1samp(differences, 0.)
    low, high = found.confidence_interval()
    return f'{sum(differences) / 3:+.2f} ({low:+.2f} to {high:+.2f})', f'{found.pvalue:.3f}'


def test_what_position_is_worth_beside_the_convolution_and_without_it():
    lines = effects_table(Ablation(TOP1))
    assert [(line['points'], line['p']) for line in lines] == [_text(values) for values in DIFFERENCES]
    whole, half = settings_table({'all': Ablation(TOP1), 'few': Ablation({row: TOP1[row] for row in list(TOP1)[:3]})},
                                 {'all': 'all images', 'few': 'few images'})
    assert whole == {'setting': '`all`', 'what it is': 'all images', 'beside the convolution': _text(DIFFERENCES[0])[0],
                     'without it': _text(DIFFERENCES[1])[0]}
    assert half['beside the convolution'] == whole['beside the convolution'] and half['without it'] == ''


def test_rows_that_are_missing_and_one_seed_give_no_effects():
    assert effects_table(Ablation({row: TOP1[row] for row in list(TOP1)[:3]})) == []
    one = Ablation({row: {0: values[0]} for row, values in TOP1.items()})
    assert effects_table(one) == [] and effects_of_position(one) == {
        'beside the convolution': {0: 1.}, 'without it': {0: 2.}}
    assert [line['top-1'] for line in differences_table(one, dict.fromkeys(TOP1, ''))] == [
        '88.00', '87.00', '86.00', '84.00']


def test_what_is_written_is_read_again_from_several_files(tmp_path):
    whole = {'all': Ablation(TOP1, {'full': {1: [0.5, 0.25]}}), 'few': Ablation({'vit': {0: 70.5}})}
    write_ablations(whole, tmp_path / 'whole.csv')
    assert read_ablations([tmp_path / 'whole.csv']) == whole
    first = {'all': Ablation({row: TOP1[row] for row in list(TOP1)[:2]}, whole['all'].moved)}
    write_ablations(first, tmp_path / 'first.csv')
    write_ablations({'all': Ablation({row: TOP1[row] for row in list(TOP1)[2:]}), 'few': whole['few']},
                    tmp_path / 'second.csv')
    assert read_ablations([tmp_path / 'first.csv', tmp_path / 'second.csv']) == whole


@pytest.mark.parametrize('text, words', [
    (None, 'cannot be read'),
    ('', 'must be a table with the columns setting, row, .* got the columns of an empty file'),
    ('system,seed\nsit,0\n', 'got the columns system, seed: name a file that tools/ablate.py wrote'),
    ('setting,row,seed,top1,moved\nall,full,0\n', 'and a value for each in every line'),
    ('setting,row,seed,top1,moved\nall,full,zero,80.0,\n', 'has a value that is no number'),
    ('setting,row,seed,top1,moved\nall,full,0,80.0,\nall,full,0,81.0,\n', 'a second time'),
])
def test_other_files_are_told(tmp_path, text, words):
    if text is not None:
        (tmp_path / 'runs.csv').write_text(text)
    with pytest.raises(UserError, match=words):
        read_ablations([tmp_path / 'runs.csv'])
