"""tools/pretraining_study.py: its queue, its rows, and scores that are kept; training and scoring are stand-ins."""
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pervit_mm.apis.configs import load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    yield importlib.import_module('pretraining_study')
    sys.modules.pop('pretraining_study', None)


@pytest.mark.parametrize('systems', [['milan'], ['milan', 'ibot'], ['mae', 'ibot', 'milan']])
def test_milan_follows_the_ibot_of_its_seed(study, systems):
    """Each run once, each ahead of those that start from it, and each config is there."""
    runs = study.queue(systems, list(study.CONTROLS), [0, 3])
    names = [run.name for run in runs]
    assert len(set(names)) == len(names) and all(Path(run.config).is_file() for run in runs)
    assert {f'{system}{part}_seed{seed}' for system in systems for part in ('', '-1pct') for seed in (0, 3)} <= {*names}
    assert ('ibot-1pct_seed0' in names) == ('ibot' in systems)
    needs = {run.name: run.needs(names) for run in runs}
    assert needs['milan_seed3'] == ['ibot_seed3'] and needs['milan-1pct_seed3'] == ['milan_seed3']
    assert all(names.index(needed) < names.index(name) for name, found in needs.items() for needed in found)


def test_each_column_is_scored_once_with_the_weights_of_its_row(study, tmp_path, monkeypatch, capsys):
    root, scored = tmp_path / 'runs', []

    def train_all(tool, runs, folder, jobs):
        assert all('a=1' in run.options for run in runs)
        for run in runs:
            (folder / run.name).mkdir(parents=True, exist_ok=True)
            (folder / run.name / 'last_checkpoint').write_text('last.pth')
            (folder / run.name / 'last.pth').write_text(run.name)
            load_config(run.config).dump(folder / run.name / Path(run.config).name)
        return {run.name: {'accuracy/top1': 80. + run.seed} for run in runs}

    def told(kind, value):
        def scores(cfg, checkpoint, *others, **options):
            scored.append((kind, checkpoint and Path(checkpoint).parent.name, options))
            return value
        return scores

    def row(name, knn):
        return SimpleNamespace(features=name, knn={20: knn}, few_knn=SimpleNamespace(mean=2.),
                               few_probe=SimpleNamespace(mean=3.))

    def probe(cfg, checkpoint, **options):
        names = [('pixels', 84.), ('random weights', 70.)] if checkpoint is None else [('checkpoint', 75.)]
        return told('probe', [row(*name) for name in names])(cfg, checkpoint, **options)

    monkeypatch.setattr(study, 'train_all', train_all)
    monkeypatch.setattr(study, 'probe', probe)
    monkeypatch.setattr(study, 'score_heads', told('heads', SimpleNamespace(together=60.)))
    monkeypatch.setattr(study, 'score_region_matching', told('place', [SimpleNamespace(accuracy=value)
                                                                       for value in (4., 5.)]))
    monkeypatch.setattr(study, 'score_hidden_pixels', told('pixels', SimpleNamespace(
        model=0.25, mean_image=0.65, nearest_patch=0.5)))
    monkeypatch.setattr('sys.argv', ['pretraining_study.py', '--systems', 'mae', 'milan', '--controls', 'scratch',
                                     '--seeds', '3', '--root', str(root), '--cfg-options', 'a=1', '--out',
                                     str(tmp_path / 'out.csv')])

    def table():
        scored.clear()
        study.main()
        return [[cell.strip() for cell in line.strip('|').split('|')]
                for line in capsys.readouterr().out.splitlines()[2:]]

    features = ['75.0', '2.0', '3.0', '4.0', '5.0', '60.0']
    rows = table()
    assert rows == [['pixels', '', '84.0', '2.0', '3.0', *[''] * 7],
                    ['random weights', '', '70.0', *features[1:], *[''] * 4],
                    ['scratch', '3', *[''] * 9, '83.0'],
                    ['mae', '3', *features, '0.250', '0.650', '0.500', '83.0'],
                    ['ibot', '3', *features, *[''] * 3, '83.0'], ['milan', '3', *features, *[''] * 3, '83.0']]
    prefixes = dict(mae='backbone.', ibot='teacher.module.backbone.', milan='backbone.')
    tokens = dict(prefix='backbone.', recalibration=8192)
    assert scored[:3] == [('probe', None, dict(pixels=True, random=True, recalibration=8192, k=(20, ))),
                          ('place', None, tokens), ('heads', None, tokens)]
    for system, prefix in prefixes.items():
        own = [one for one in scored if one[1] == f'{system}_seed3']
        assert [one[0] for one in own] == ['probe', 'place', 'heads', *(['pixels'] if system == 'mae' else [])]
        assert all(one[2]['prefix'] == prefix and one[2]['recalibration'] == 8192 for one in own[:3])
    assert (tmp_path / 'out.csv').read_text().splitlines()[1] == 'pixels,,84.0,2.0,3.0,,,,,,,'
    assert table() == rows and not scored
    (root / 'mae_seed3' / 'last.pth').write_text('other')
    monkeypatch.setattr(study, 'train_all', lambda tool, runs, folder, jobs: {
        run.name: {'accuracy/top1': 83.} for run in runs})
    assert table() == rows and {one[1] for one in scored} == {'mae_seed3'}


def test_rows_of_several_files_become_one_table(study, tmp_path, monkeypatch, capsys):
    """Written by two commands, in the order of a whole study; of a row that both have the last counts."""
    head = ','.join(f'"{column}"' for column in study.COLUMNS)
    first, second, both = tmp_path / 'first.csv', tmp_path / 'second.csv', tmp_path / 'both.csv'
    first.write_text(f'{head}\npixels,,84.0,2.0,3.0,,,,,,,\nmilan,0,75.0,2.0,3.0,4.0,5.0,60.0,,,,81.0\n')
    second.write_text(f'{head}\npixels,,84.5,2.0,3.0,,,,,,,\nmae,0,75.0,2.0,3.0,4.0,5.0,60.0,0.25,0.65,0.5,80.0\n')
    monkeypatch.setattr(study, 'train_all', None)
    monkeypatch.setattr('sys.argv', ['pretraining_study.py', '--read', str(first), str(second), '--out', str(both)])
    study.main()
    shown = [[cell.strip() for cell in line.strip('|').split('|')] for line in capsys.readouterr().out.splitlines()[2:]]
    assert shown == [['pixels', '', '84.5', '2.0', '3.0', *[''] * 7],
                     ['mae', '0', '75.0', '2.0', '3.0', '4.0', '5.0', '60.0', '0.250', '0.650', '0.500', '80.0'],
                     ['milan', '0', '75.0', '2.0', '3.0', '4.0', '5.0', '60.0', '', '', '', '81.0']]
    assert both.read_text().splitlines()[2] == 'mae,0,75.0,2.0,3.0,4.0,5.0,60.0,0.25,0.65,0.5,80.0'
    for options, words in ((['--read', str(both), '--systems', 'mae'], '--read trains nothing, so it takes no --sys'),
                           (['--read', str(tmp_path / 'none.csv')], "none.csv' cannot be read (FileNotFoundError")):
        monkeypatch.setattr('sys.argv', ['pretraining_study.py', *options])
        with pytest.raises(SystemExit) as stopped:
            study.main()
        assert words in f'{stopped.value}{capsys.readouterr().err}'
