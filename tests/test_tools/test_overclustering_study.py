"""tools/overclustering_study.py: its runs, its rows, and scores that are kept; training and scoring are stand-ins."""
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pervit_mm.apis import overclustering
from pervit_mm.apis.configs import load_config
from pervit_mm.benchmarks import run_queue
from pervit_mm.benchmarks.kept_scores import fingerprint

TOOL = str(Path(__file__).resolve().parents[2] / 'tools' / 'overclustering_study.py')


@pytest.fixture
def study(monkeypatch, capsys, tmp_path):
    """Run the tool. It returns the runs, the rows of the table, and what was scored."""
    runs, scored = [], []

    def train_all(tool, queue, root, jobs):
        runs[:] = queue
        for run in queue:
            folder = root / run.name
            folder.mkdir(parents=True, exist_ok=True)
            cfg = load_config(run.config)
            for option in run.options:
                cfg.merge_from_dict(dict([option.split('=', 1)]))
            cfg.dump(folder / Path(run.config).name)
            (folder / 'last_checkpoint').write_text('last.pth')
            if not (folder / 'last.pth').is_file():
                (folder / 'last.pth').write_bytes(bytes([run.seed]))

    def score_overclustering(cfg, weights, tiles, calibration, *, clusters, seed):
        scored.append((Path(weights).name, seed, tiles, calibration, clusters))
        return [SimpleNamespace(miou=miou, matches=torch.tensor([0, 1, draw]))
                for draw, miou in enumerate((3., 5., 7.))]

    monkeypatch.setattr(run_queue, 'train_all', train_all)
    def foreground_precision(cfg, weights, tiles, calibration, *, seed):
        return (30. + seed if weights == 'start' else 20. if cfg.model.get('mass') != '1.0' else 14., 14.)

    monkeypatch.setattr(overclustering, 'score_overclustering', score_overclustering)
    monkeypatch.setattr(overclustering, 'foreground_precision', foreground_precision)
    monkeypatch.setattr(overclustering, 'read_tiles', lambda root, split, side, scenes: (split, side, scenes))

    def start(*options):
        scored.clear()
        monkeypatch.setattr('sys.argv', ['overclustering_study.py', '--data', 'there', '--root', str(tmp_path / 'runs'),
                                         '--seeds', '0', '3', *options])
        runpy.run_path(TOOL, run_name='__main__')
        lines = capsys.readouterr().out.strip().splitlines()
        assert lines[-1] == 'Of all tokens 14.0 % show an item.'
        rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:-2]]
        return list(runs), rows, list(scored)

    return start


def test_rows_are_made_once(study, tmp_path):
    runs, rows, scored = study('--clusters', '12', '--scenes', '9', '--out', str(tmp_path / 'out.csv'))
    names = [run.name for run in runs]
    assert names == ['ibot_seed0', 'ibot_seed3', *(f'{kind}-from-ibot_seed{seed}' for kind in (
        'leopart', 'leopart-all-tokens') for seed in (0, 3))]
    # Those of the other study have no options, so that its runs are taken over.
    assert [run.options for run in runs[:2]] == [(), ()] and runs[3].needs(names) == ['ibot_seed3']
    assert runs[3].options[1:] == ('model.backbone.init_cfg.prefix=teacher.module.backbone.',
                                   'train_dataloader.dataset.data_root=there')
    assert runs[5].options == (*runs[3].options, 'model.mass=1.0')
    sets = ('test', 56, 9), ('train', 56, 100), 12
    assert scored == [(name, seed, *sets) for name, seed in (
        ('pixels', 0), ('random', 0), ('random', 3), ('start', 0), ('start', 3),
        *(('last.pth', 0), ('last.pth', 3)) * 2)]
    assert rows == [[name, seed, '5.0 ± 2.0', '2.3', foreground] for name, seed, foreground in (
        ('pixels', '', ''), ('random weights', '0', '20.0'), ('random weights', '3', '20.0'), ('start', '0', '30.0'),
        ('start', '3', '33.0'), ('leopart', '0', '20.0'), ('leopart', '3', '20.0'),
        ('leopart-all-tokens', '0', '14.0'), ('leopart-all-tokens', '3', '14.0'))]
    lines = (tmp_path / 'out.csv').read_text().splitlines()
    assert len(lines) == 1 + 9 * 3 and lines[1:4] == [f'pixels,0,{draw},{miou},{classes},,' for draw, miou, classes in (
        (0, 3., 2), (1, 5., 2), (2, 7., 3))]
    assert lines[-1].endswith(',14.0,14.0')
    assert study('--clusters', '12', '--scenes', '9')[1:] == (rows, [])


def test_scores_are_made_again_where_something_changed(study, tmp_path):
    study()
    (tmp_path / 'runs' / 'leopart-from-ibot_seed3' / 'last.pth').write_bytes(b'other')
    assert [one[:2] for one in study()[2]] == [('last.pth', 3)]
    start = tmp_path / 'start.pth'
    start.write_bytes(b'one')
    # Another start has other runs, also in the same folder.
    runs, _, scored = study('--start', str(start), '--system', 'mae')
    assert [run.name for run in runs] == [f'{kind}-from-{fingerprint(start)}_seed{seed}' for kind in (
        'leopart', 'leopart-all-tokens') for seed in (0, 3)]
    assert runs[0].options[:2] == (f'model.backbone.init_cfg.checkpoint={start}',
                                   'model.backbone.init_cfg.prefix=backbone.') and len(scored) == 9
    assert [run.name.split('_')[0] for run in study('--system', 'dino')[0]] == [
        *['dino'] * 2, *['leopart-from-dino'] * 2, *['leopart-all-tokens-from-dino'] * 2]
    assert not study('--start', str(start), '--system', 'mae')[2]
    start.write_bytes(b'two')
    assert len(study('--start', str(start), '--system', 'mae')[2]) == 9
    assert len(study('--clusters', '7')[2]) == 9
    manifest = tmp_path / 'fashion_scenes.json'
    for seed in '01':  # the scenes are drawn anew
        manifest.write_text(seed)
        assert len(study('--data', str(tmp_path))[2]) == 9
    assert not study('--data', str(tmp_path))[2]
