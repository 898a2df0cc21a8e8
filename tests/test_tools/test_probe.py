"""tools/analysis_tools/probe.py with a small model and made images."""
import csv
import importlib
import sys
from pathlib import Path

import pytest
import torch
from small_classifiers import write_images, write_model

from pervit_mm.datasets.image_folder import make_image_folder

pytest.importorskip('mmpretrain')
pytest.importorskip('sklearn')
pytestmark = pytest.mark.usefixtures('one_thread')

ROOT = Path(__file__).parents[2]
SMALL = ['--k', '3', '--shots', '2', '--seeds', '0', '1', '--device', 'cpu']


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp('world')
    write_images(folder / 'data', 12)
    config, weights = write_model(folder, 'pervit', data=folder / 'data')
    with open(config, 'a') as file:
        file.write('train_dataloader = test_dataloader\n')
    return config, weights


@pytest.fixture
def main(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'analysis_tools'))
    yield lambda *args: importlib.import_module('probe').main([str(arg) for arg in args])
    sys.modules.pop('probe', None)


def test_the_table_has_all_rows_and_the_file_all_numbers(main, world, tmp_path, capsys):
    config, weights = world
    main(config, '--pixels', '--random', weights, '--full-probe', '--recalibrate', 6, '--bank', 9, '--images', 6,
         *SMALL, '--out', tmp_path / 'probe.csv')
    head, _, *rows = [[cell.strip() for cell in line.strip('|').split('|')]
                      for line in capsys.readouterr().out.splitlines()]
    assert head[:4] == ['features', 'bank', 'queries', 'k-NN, k = 3'] and head[-1] == 'linear probe, all labels'
    assert [row[0] for row in rows] == ['pixels', 'pixels, centered', 'random weights (seed 0), recalibrated',
                                        'pervit.pth, recalibrated']
    assert all(row[1:3] == ['9', '6'] for row in rows)
    with open(tmp_path / 'probe.csv', newline='') as file:
        records = list(csv.DictReader(file))
    assert len(records) == 4 * (1 + 2 + 2 + 1)
    voted = {record['features']: record['top1'] for record in records if (record['k'], record['shots']) == ('3', '')}
    assert [row[3] for row in rows] == [f'{float(voted[row[0]]):.1f}' for row in rows]


def test_a_folder_of_ones_own_stands_in_for_the_data(main, world, tmp_path, capsys):
    config, weights = world
    make_image_folder(str(tmp_path / 'own'), 3, 5, 2, (20, 24))
    main(config, weights, tmp_path / 'own', '--device', 'cpu')
    with_folder = capsys.readouterr().out
    other = tmp_path / 'other.py'
    other.write_text(f"""_base_ = {config!r}
train_dataloader = dict(dataset=dict(data_root={str(tmp_path / 'own')!r}, data_prefix='train'))
test_dataloader = dict(dataset=dict(data_root={str(tmp_path / 'own')!r}, data_prefix='val'))
""")
    main(other, weights, '--k', 10, '--shots', 2, '--full-probe', '--device', 'cpu')
    as_data = capsys.readouterr().out
    rows = [[line.strip('| ').split(' | ') for line in text.splitlines()] for text in (with_folder, as_data)]
    assert rows[0][0] == ['features', 'bank', 'queries', 'k-NN, k = 10', 'linear probe, all labels']
    assert rows[0][2][1:3] == ['15', '6'] and rows[0][2] == [*rows[1][2][:4], rows[1][2][-1]]
    (tmp_path / 'own' / 'val' / 'odd').mkdir()
    for folder, message in ((tmp_path / 'own', "differ in classes: class 3 is nothing in one and 'odd' in the other"),
                            (tmp_path, "must have a folder 'train' with a folder for each class, and has none")):
        with pytest.raises(SystemExit, match=message):
            main(config, weights, folder)


def test_mistakes_are_one_line(main, world, tmp_path):
    config, weights = world
    broken = tmp_path / 'broken.pth'
    torch.save(dict(conv=torch.zeros(1)), broken)
    simmim = ROOT / 'configs' / 'selfsup' / 'simmim_pervit-nano_1xb128-coslr-5e_fashion-mnist.py'
    for args, message in (
            ([config], 'nothing to measure'), ([config, broken], '(--prefix): its keys begin with conv (1)'),
            ([config, weights, '--prefix', 'student.'], "it has one under 'backbone.'"),
            ([simmim, '--pixels'], 'has no test_dataloader, and k-NN and probes need labeled images'),
            ([config, '--pixels', '--k', 13], 'k must be integers from 1 to the 12 images of the bank'),
            ([config, '--pixels', '--out', tmp_path / 'nowhere' / 'a.csv'], 'cannot be written')):
        with pytest.raises(SystemExit) as end:
            main(args[0], *SMALL, *args[1:])
        assert isinstance(end.value.code, str) and '\n' not in end.value.code and message in end.value.code
        assert end.value.code.startswith('tools/analysis_tools/probe.py: ')


def test_help_names_the_options(main, capsys):
    with pytest.raises(SystemExit) as end:
        main('--help')
    text = capsys.readouterr().out
    assert end.value.code == 0 and all(option in text for option in (
        '--pixels', '--random', '--prefix', '--recalibrate', '--bank', '--shots', '--full-probe', '--out', '8192'))
