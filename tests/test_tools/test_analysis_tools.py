"""tools/analysis_tools/report.py, compare.py, robustness.py and maximise.py with small models of random weights."""
import csv
import importlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_classifiers import SIDE, write_images, write_model, write_world

from pervit_mm.analysis import unit_activations
from pervit_mm.apis.subject import open_subject
from pervit_mm.evaluation.occlusion import drop_patches, received_attention

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')

TOOLS = Path(__file__).parents[2] / 'tools' / 'analysis_tools'
CPU = ['--device', 'cpu']


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    folder = write_world(tmp_path_factory.mktemp('world'), ('pervit', 'bare', 'vit', 'resnet', 'gray'))
    write_images(folder / 'others', count=9)
    write_model(folder, 'bare', 'elsewhere', data=folder / 'others')
    (folder / 'broken.png').write_bytes(b'no image')
    return folder


def pair(world, name, weights=None):
    return [str(world / f'{name}.py'), str(world / f'{weights or name}.pth')]


@pytest.fixture
def run(monkeypatch):
    """Calls the ``main`` of a tool, as a module of this process."""
    monkeypatch.syspath_prepend(str(TOOLS))

    def main(tool, *args):
        importlib.import_module(tool).main([str(arg) for arg in args])

    yield main
    for tool in ('report', 'compare', 'robustness', 'maximise'):
        sys.modules.pop(tool, None)


@pytest.fixture
def refused(run, capsys):
    """The one line that a tool ends with."""

    def message(tool, *args):
        with pytest.raises(SystemExit) as end:
            run(tool, *args)
        if end.value.code == 2:  # of argparse
            return capsys.readouterr().err.splitlines()[-1]
        assert isinstance(end.value.code, str) and '\n' not in end.value.code
        assert end.value.code.startswith(f'tools/analysis_tools/{tool}.py: ')
        return end.value.code

    return message


def test_report_is_written_of_files_and_broken_ones_named(run, refused, world, tmp_path, capsys):
    given = [*pair(world, 'pervit'), world / 'data' / 'a', world / 'data' / 'b' / '1.png', *CPU, '--out', tmp_path]
    options = ['--shown', 1, '--blocks', 1, '--query', 0, 3, '--edges', 1, 2, '--scale', 'unit', '--sort']
    run('report', *given, *options)
    assert capsys.readouterr().out.endswith(f'\nReport: {tmp_path / "report.html"}\n')
    data = json.loads((tmp_path / 'report.json').read_text())
    assert data['models'][0]['images'] == ['0.png', '3.png', '1.png'] and data['models'][0]['name'] == 'pervit'
    assert data['figures']['maps']['data'] == {'pervit': {'blocks': [1]}}
    assert data['figures']['rings']['data']['pervit']['edges'] == [[1, 2]] * 3
    assert 'Colors go from 0 to 1' in data['figures']['maps']['rule']
    (tmp_path / 'report.json').unlink()
    message = refused('report', *pair(world, 'resnet'), world / 'broken.png', world / 'data' / 'a', *CPU, '--out',
                      tmp_path)
    assert 'broken.png' in message and message.endswith('. The others are in the report')
    assert json.loads((tmp_path / 'report.json').read_text())['models'][0]['images'] == ['0.png', '3.png']


def test_compare_writes_two_models_on_the_test_set(run, world, tmp_path):
    run('compare', ','.join(pair(world, 'bare')), ','.join(pair(world, 'resnet')), *CPU, '--out', tmp_path, '--count',
        4, '--shown', 1)
    data = json.loads((tmp_path / 'report.json').read_text())
    assert [model['name'] for model in data['models']] == ['bare', 'resnet']
    assert data['models'][0]['images'] == data['models'][1]['images'] == [f'CustomDataset {i}' for i in (0, 2, 3, 5)]
    assert np.shape(data['figures']['cka']['data']['the first (up) against the second']) == (3, 8)


def test_a_name_of_the_zoo_stands_for_config_and_checkpoint(run, world, tmp_path):
    run('report', 'pervit_nano_fashion-mnist', world / 'data' / 'a', *CPU, '--out', tmp_path, '--shown', 1, '--blocks',
        0)
    data = json.loads((tmp_path / 'report.json').read_text())
    assert data['models'][0]['name'] == 'pervit_nano_fashion-mnist' and len(data['models'][0]['grids']) == 6
    assert data['models'][0]['grids'][0] == [7, 7] and 'position' in data['figures']


def test_report_and_compare_tell_mistakes_in_one_line(refused, world, tmp_path):
    rest = [world / 'data' / 'a', *CPU, '--out', tmp_path / 'out']
    model = pair(world, 'bare')
    for args, message in (
            (pair(world, 'bare', 'vit'), 'checkpoint is not of this config: '),
            (pair(world, 'vit', 'bare'), 'checkpoint is not of this config: '),
            (pair(world, 'bare', 'nothing'), 'nothing.pth'),
            ([*model, '--query', 4, 0], 'query (--query) must be a token (row, column) of the 4 x 4 grid, got (4, 0)'),
            ([*model, '--query', 0, -1], 'got (0, -1)'),
            ([*model, '--edges', 2, 1], 'edges must be distances in tokens that rise from above 0, got (2.0, 1.0)'),
            ([*model, '--edges', 1, 1], 'got (1.0, 1.0)'), ([*model, '--edges', 'nan'], 'got (nan,)'),
            ([*model, '--blocks', 3], 'blocks (--blocks) must be numbers from 0 to 2, got 3'),
            ([*model, '--shown', 0], 'shown (--shown) must be a positive number of images, got 0'),
            ([*model, '--scale', 'log'], "invalid choice: 'log'")):
        assert message in refused('report', *args[:2], *rest, *args[2:])
    assert 'a checkpoint must follow it' in refused('report', model[0], *CPU)
    assert 'got 0' in refused('report', *model, *CPU, '--count', 0)
    message = refused('report', *model, tmp_path / 'nothing.png', *CPU)
    assert 'nothing.png' in message and 'there is no such file' in message
    message = refused('report', *model, world / 'broken.png', *CPU)
    assert 'images: none of 1 can be read' in message and 'broken.png' in message
    assert 'cannot be made' in refused('report', *pair(world, 'resnet'), *rest, '--out', model[0])
    message = refused('compare', model[0], ','.join(model), *CPU)
    assert 'is a config, which has no weights: give weights' in message and 'CONFIG,FILE' in message
    assert "model='nothing' is neither" in refused('compare', ','.join(model), 'nothing,a.pth', *CPU)


def rows_of(folder):
    with open(folder / 'robustness.csv', newline='') as file:
        return list(csv.DictReader(file))


def accuracy(subject, pixels, labels):
    with torch.no_grad():
        return 100 * (subject.logits(subject.normalize(pixels)).argmax(1) == labels).double().mean().item()


def test_robustness_measures_all_models_with_one_saliency(run, world, tmp_path):
    models = [','.join(pair(world, name)) for name in ('pervit', 'resnet')]
    run('robustness', *models, '--conditions', 'drop_salient', 'shuffle', '--seeds', 2, *CPU, '--out', tmp_path)
    rows = rows_of(tmp_path)
    subjects = [open_subject(*pair(world, name), 'cpu') for name in ('pervit', 'resnet')]
    batch = subjects[0].load()
    saliency = received_attention(subjects[0].model, subjects[0].normalize(batch.pixels))
    assert len(rows) == 2 * (1 + 9 + 2 * 4)  # grids 2, 4, 8 and 16 divide 16 pixels
    for subject, own in zip(subjects, (rows[:18], rows[18:])):
        clean, drops = own[0], own[1:10]
        assert clean['condition'] == 'clean' and float(clean['accuracy']) == pytest.approx(
            accuracy(subject, batch.pixels, batch.labels))
        for tenth, row in enumerate(drops, start=1):
            changed, _ = drop_patches(batch.pixels, tenth / 10, (4, 4), 'salient', 'zero', saliency)
            assert (row['condition'], float(row['level']), row['seed']) == ('drop_salient', tenth / 10, '')
            assert float(row['accuracy']) == pytest.approx(accuracy(subject, changed, batch.labels))
        assert {row['seed'] for row in own[10:]} == {'0', '1'}
        assert all(row['images'] == '6' for row in own)
    table = (tmp_path / 'robustness.md').read_text()
    assert table.count('\n') == 2 + 1 + 9 + 4 and '±' in table
    assert cv2.imread(str(tmp_path / 'robustness.png')).shape[2] == 3


def test_robustness_tells_mistakes_in_one_line(run, refused, world, tmp_path):
    models = {name: ','.join(pair(world, name)) for name in ('bare', 'resnet', 'elsewhere')}
    rest = [*CPU, '--out', tmp_path]
    message = refused('robustness', models['resnet'], '--conditions', 'drop_salient', *rest)
    assert 'saliency needs attention between tokens' in message and '--saliency-from' in message
    assert 'must have the same test images' in refused('robustness', models['bare'], models['elsewhere'], *rest)
    assert 'which has no weights' in refused('robustness', pair(world, 'bare')[0], *rest)
    assert 'got 0' in refused('robustness', models['bare'], '--images', 0, *rest)
    assert '--seeds must be at least 1, got 0' in refused('robustness', models['bare'], '--seeds', 0, *rest)
    assert 'invalid choice' in refused('robustness', models['bare'], '--conditions', 'rain', *rest)
    assert not list(tmp_path.iterdir())
    run('robustness', models['resnet'], '--conditions', '--images', 2, *rest)  # none: the images as they are
    row, = rows_of(tmp_path)
    assert row['condition'] == 'clean' and row['images'] == '2'


@pytest.mark.parametrize('name', ['pervit', 'gray'])
def test_maximise_draws_a_row_for_each_unit(run, world, tmp_path, capsys, name):
    config, weights = pair(world, name)
    if name == 'gray':  # its test images must be gray
        text = Path(config).read_text().replace("type='LoadImageFromFile'", "type='LoadImageFromFile', "
                                                "color_type='grayscale'")
        Path(config).write_text(text)
    run('maximise', config, '--weights', weights, '--block', 1, '--units', 3, 0, '--steps', 3, '--images', 4, *CPU,
        '--out', tmp_path / 'units.png')
    picture = cv2.imread(str(tmp_path / 'units.png'))[..., ::-1]
    tile = 112 // SIDE * SIDE
    assert picture.shape == (2 * (20 + tile + 8), 5 * (tile + 8) + 16, 3)  # the image made, and four of the set
    assert capsys.readouterr().out.endswith(f'units.png: {picture.shape[1]} x {picture.shape[0]} pixels\n')
    subject = open_subject(config, weights, 'cpu')
    batch = subject.load(count=4)
    with torch.no_grad():
        values = unit_activations(subject.model, subject.normalize(batch.pixels), 1)
    for row, unit in enumerate((3, 0)):
        for column, best in enumerate(values[:, unit].argsort(descending=True), start=1):
            top, left = row * (20 + tile + 8) + 20, 8 + column * (tile + 8) + 8
            drawn = picture[top:top + tile, left:left + tile]
            np.testing.assert_array_equal(drawn[3::7, 3::7], batch.rgb()[best])


def test_maximise_tells_mistakes_in_one_line(refused, world, tmp_path):
    config, weights = pair(world, 'vit')
    out = tmp_path / 'units.png'
    rest = ['--weights', weights, *CPU, '--out', out, '--images', 2]
    for options, message in (
            (['--block', 3], 'block must be the number of one of 3 blocks, got 3'),
            (['--units', 32], 'units must be numbers from 0 to 31 of hidden units of this block, got 32'),
            (['--units', -1], 'got -1'), (['--count', 33], 'count must be from 1 to 32'),
            (['--images', 0], 'got 0'), (['--steps', 0], '--steps must be at least 1, got 0'),
            (['--out', tmp_path / 'units.jpg'], '--out must end in .png'),
            (['--out', tmp_path / 'none' / 'units.png'], 'none')):
        assert message in refused('maximise', config, *rest, *options)
    assert 'which has no weights' in refused('maximise', config, *CPU, '--out', out)
    assert 'checkpoint is not of this config' in refused('maximise', pair(world, 'bare')[0], *rest)
    message = refused('maximise', pair(world, 'resnet')[0], *rest, '--weights', pair(world, 'resnet')[1])
    assert 'backbone ResNet, in which no feed-forward network of tokens was found' in message
    assert not list(tmp_path.iterdir()), 'nothing half done is left'
