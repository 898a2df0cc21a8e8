"""tools/compare_fashion_scenes.py: what is run, tables and files; training and testing are stand-ins."""
import csv
import json
import runpy
import sys
from pathlib import Path
from statistics import mean, stdev

import pytest

from pervit_mm.benchmarks import equal_time

pytest.importorskip('scipy')
ROOT = Path(__file__).resolve().parents[2]
#: Box AP of each model by seed, as MMDetection's evaluator has it.
AP = {'mask-rcnn_pervit-nano': (0.25, 0.27, 0.26), 'mask-rcnn_pervit-nano_sit-pre': (0.24, 0.27, 0.27),
      'mask-rcnn_pervit-nano_scratch': (0.2, 0.21, 0.19), 'mask-rcnn_resnet18': (0.3, 0.31, 0.32),
      'mask-rcnn_pervit-nano_global': (0., 0.01, 0.)}
MIOU = {'pervit-nano_fpn': (38., 40., 39.), 'pervit-nano_scratch_fpn': (34., 35., 33.), 'resnet18_fpn': (38., 39., 40.)}


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """The runs that were asked for, in their order."""
    done = []

    def run_for(tool, config, root, seed, minutes, options, threads):
        name = Path(config).stem.removesuffix('_fashion-scenes')
        assert Path(config).is_file() and Path(tool).is_file() and (root, minutes, threads) == ('runs', 10., 1)
        done.append((name, seed))
        result = dict(iterations=1000 + seed, measured=10. + seed / 10)
        if name in MIOU:
            return dict(result, mIoU=MIOU[name][seed], mAcc=50., aAcc=90.)
        ap = AP[name][seed]
        return {**result, **{f'coco/{of}_mAP{at}': ap / (1 + i) for i, (of, at) in enumerate(
            [('bbox', ''), ('bbox', '_50'), ('segm', ''), ('segm', '_50')])}}

    monkeypatch.setattr(equal_time, 'run_for', run_for)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    return done


def call(monkeypatch, *options):
    monkeypatch.setattr(sys, 'argv', ['compare_fashion_scenes.py', '--root', 'runs', '--jobs', '1', *options])
    runpy.run_path(str(ROOT / 'tools' / 'compare_fashion_scenes.py'), run_name='__main__')


def test_models_are_compared_with_the_first_seed_by_seed(monkeypatch, capsys, runs):
    call(monkeypatch)
    names = [*list(AP)[:4], *MIOU]
    assert runs == [(name, seed) for seed in range(3) for name in names]  # global attention only where it is named
    rows = {line.split('|')[1].strip(' `'): [cell.strip() for cell in line.split('|')[2:-1]]
            for line in capsys.readouterr().out.splitlines() if line.startswith('| `')}
    assert list(rows) == names
    for name, values in (*list(AP.items())[:4], *MIOU.items()):
        points = [100 * value for value in values] if name in AP else values
        assert rows[name][:2] == ['1,001 in 10.1', f'{mean(points):.2f} ± {stdev(points):.2f}'], name
        assert len(rows[name]) == 6
    assert rows['mask-rcnn_pervit-nano'][-2:] == ['', '']
    # Differences of -5, -6 and -7 points: Student's t of two degrees is 4.303 for 95 %.
    half = 4.3027 / 3**.5
    assert rows['mask-rcnn_pervit-nano_scratch'][-2] == f'-6.00 ({-6 - half:+.2f} to {-6 + half:+.2f})'
    assert rows['mask-rcnn_pervit-nano_scratch'][-1] == '0.009'
    assert rows['resnet18_fpn'][-2].startswith('+0.00')


def test_files_of_one_task(monkeypatch, capsys, runs):
    call(monkeypatch, '--task', 'detection', '--configs', 'mask-rcnn_pervit-nano', 'mask-rcnn_pervit-nano_global',
         'pervit-nano_fpn', '--seeds', '1', '2', '--out', 'a.csv', '--figure', 'a.png')
    assert runs == [(name, seed) for seed in (1, 2) for name in ('mask-rcnn_pervit-nano',
                                                                  'mask-rcnn_pervit-nano_global')]
    with open('a.csv') as file:
        lines = list(csv.DictReader(file))
    assert [(line['model'], line['seed'], float(line['bbox_mAP'])) for line in lines] == [
        (name, str(seed), pytest.approx(100 * AP[name][seed])) for name in ('mask-rcnn_pervit-nano',
                                                                            'mask-rcnn_pervit-nano_global')
        for seed in (1, 2)]
    assert list(lines[0]) == ['model', 'seed', 'iterations', 'minutes', 'bbox_mAP', 'bbox_mAP_50', 'segm_mAP',
                              'segm_mAP_50']
    assert Path('a.png').read_bytes().startswith(b'\x89PNG')


def test_mistakes_are_told_ahead_of_all_runs(monkeypatch, capsys, runs):
    for options, words in ((['--out', 'a.csv'], '--out and --figure are about one task, got detection and segm'),
                           (['--seeds', '0', '0'], '--seeds must differ, got [0, 0]'),
                           (['--task', 'detection', '--figure', 'a.png', '--seeds', '0'], 'two models and two seeds')):
        with pytest.raises(SystemExit):
            call(monkeypatch, *options)
        assert words in capsys.readouterr().err and not runs
    plan = Path('runs/resnet18_fpn_fashion-scenes_seed2/plan.json')
    plan.parent.mkdir(parents=True)
    plan.write_text(json.dumps(dict(minutes=5., iterations=9)))
    with pytest.raises(SystemExit, match='resnet18_fpn_fashion-scenes_seed2 has a run with minutes=5.0, not 10.0'):
        call(monkeypatch)
    assert not runs
