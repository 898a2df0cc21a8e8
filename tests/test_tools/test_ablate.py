"""tools/ablate.py: every ablation is a row, and a setting changes what it says; training is a stand-in."""
import runpy
from pathlib import Path

import pytest
from mmengine.config import DictAction

from pervit_mm.apis.configs import load_config
from pervit_mm.benchmarks import run_queue

pytest.importorskip('scipy')
ROOT = Path(__file__).resolve().parents[2]


def test_every_ablation_is_a_row_with_the_settings_in_place():
    tool = runpy.run_path(str(ROOT / 'tools' / 'ablate.py'))
    assert set(tool['ROWS']) == {path.stem for path in (ROOT / 'configs' / 'ablation').glob('*.py')}
    cfg = load_config(ROOT / 'configs' / 'ablation' / 'no-position.py')
    cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in (
        option.split('=') for option in tool['options_of']('images-600'))})
    assert cfg.train_dataloader.dataset.indices == 600 and cfg.train_cfg.max_epochs == 100
    warm_up, cosine = cfg.param_scheduler
    assert warm_up.end == cosine.begin == 8.33 and cosine.end == 100


def test_the_table_compares_with_the_full_row_seed_by_seed(monkeypatch, capsys, tmp_path):
    """Differences -1, -2 and -3: mean -2, interval ± 2.48, p 0.074; see test_paired.py."""
    seen = []

    def train_all(tool, runs, root, jobs, threads):
        seen.extend(run.name for run in runs)
        return {run.name: {'accuracy/top1': 88. - (0 if 'full' in run.name else run.seed + 1)} for run in runs}

    monkeypatch.setattr(run_queue, 'train_all', train_all)
    monkeypatch.setattr('sys.argv', ['ablate.py', '--rows', 'full', 'no-cpe', '--out', str(tmp_path / 'runs.csv')])
    runpy.run_path(str(ROOT / 'tools' / 'ablate.py'), run_name='__main__')
    assert seen == ['full_seed0', 'no-cpe_seed0', 'full_seed1', 'no-cpe_seed1', 'full_seed2', 'no-cpe_seed2']
    assert '| 86.00 ± 1.00 | -2.00 (-4.48 to +0.48) | 0.074 |' in capsys.readouterr().out
    assert (tmp_path / 'runs.csv').read_text().splitlines()[1:5] == [
        'all,full,0,88.0', 'all,full,1,88.0', 'all,full,2,88.0', 'all,no-cpe,0,87.0']
