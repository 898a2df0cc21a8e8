"""tools/overclustering_study.py: its runs, its rows, and scores that are kept; training and scoring are stand-ins."""
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pervit_mm.apis import overclustering
from pervit_mm.apis.configs import load_config
from pervit_mm.benchmarks import run_queue

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
    monkeypatch.setattr(overclustering, 'score_overclustering', score_overclustering)
    monkeypatch.setattr(overclustering, 'read_tiles', lambda root, split, side, scenes: (split, side, scenes))

    def start(*options):
        scored.clear()
        monkeypatch.setattr('sys.argv', ['overclustering_study.py', '--data', 'there', '--root', str(tmp_path / 'runs'),
                                         '--seeds', '0', '3', *options])
        runpy.run_path(TOOL, run_name='__main__')
        rows = [[cell.strip() for cell in line.strip('|').split('|')]
                for line in capsys.readouterr().out.strip().splitlines()[2:]]
        return list(runs), rows, list(scored)

    return start


def test_rows_are_made_once(study, tmp_path):
    runs, rows, scored = study('--clusters', '12', '--scenes', '9', '--out', str(tmp_path / 'out.csv'))
    assert [(run.name, *run.options) for run in runs] == [
        (f'leopart_seed{seed}', 'train_dataloader.dataset.data_root=there') for seed in (0, 3)]
    sets = ('test', 56, 9), ('train', 56, 100), 12
    assert scored == [('pixels', 0, *sets), ('random', 0, *sets), ('random', 3, *sets), ('start', 0, *sets),
                      ('last.pth', 0, *sets), ('last.pth', 3, *sets)]
    assert rows == [[name, seed, '5.0 ± 2.0', '2.3'] for name, seed in (
        ('pixels', ''), ('random weights', '0'), ('random weights', '3'), ('start', ''), ('Leopart', '0'),
        ('Leopart', '3'))]
    lines = (tmp_path / 'out.csv').read_text().splitlines()
    assert len(lines) == 1 + 6 * 3 and lines[1:4] == [f'pixels,,{draw},{miou},{classes}' for draw, miou, classes in (
        (0, 3., 2), (1, 5., 2), (2, 7., 3))]
    assert study('--clusters', '12', '--scenes', '9')[1:] == (rows, [])


def test_scores_are_made_again_where_something_changed(study, tmp_path):
    study()
    (tmp_path / 'runs' / 'leopart_seed3' / 'last.pth').write_bytes(b'other')
    assert [one[:2] for one in study()[2]] == [('last.pth', 3)]
    start = tmp_path / 'start.pth'
    start.write_bytes(b'one')
    runs, _, scored = study('--start', str(start))
    assert f'model.backbone.init_cfg.checkpoint={start}' in runs[0].options
    assert ('start', 0) in [one[:2] for one in scored]
    start.write_bytes(b'two')
    assert [one[:2] for one in study('--start', str(start))[2]] == [('start', 0)]
    assert len(study('--start', str(start), '--clusters', '7')[2]) == 6
    manifest = tmp_path / 'fashion_scenes.json'
    for seed in '01':  # the scenes are drawn anew
        manifest.write_text(seed)
        assert len(study('--data', str(tmp_path))[2]) == 6
    assert not study('--data', str(tmp_path))[2]
