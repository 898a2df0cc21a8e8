"""tools/ablate.py: every ablation is a row, and a setting changes what it says; training is a stand-in."""
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.config import DictAction
from mmengine.registry import MODELS, DefaultScope

from pervit_mm.apis.configs import load_config
from pervit_mm.benchmarks import run_queue

pytest.importorskip('scipy')
ROOT = Path(__file__).resolve().parents[2]


def test_every_ablation_is_a_row_and_every_setting_has_its_configs():
    tool = runpy.run_path(str(ROOT / 'tools' / 'ablate.py'))
    folder = ROOT / 'configs' / 'ablation'
    for setting in tool['SETTINGS'].values():
        found = set((folder / setting.folder).glob('*.py'))
        assert {setting.config(row) for row in setting.rows} == found or not setting.folder
    assert set(tool['SETTINGS']['all'].rows) == set(tool['ROWS']) == {path.stem for path in folder.glob('*.py')}


def test_a_setting_changes_images_and_schedule():
    tool = runpy.run_path(str(ROOT / 'tools' / 'ablate.py'))
    cfg = load_config(ROOT / 'configs' / 'ablation' / 'no-position.py')
    cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in (
        option.split('=') for option in tool['SETTINGS']['images-600'].options())})
    assert cfg.train_dataloader.dataset.indices == 600 and cfg.train_cfg.max_epochs == 100
    warm_up, cosine = cfg.param_scheduler
    assert warm_up.end == cosine.begin == 8.33 and cosine.end == 100


@pytest.mark.parametrize('setting, tokens', [('tokens-14', 14), ('clutter', 14), ('images-600', 7)])
def test_all_rows_of_a_setting_have_its_token_grid(setting, tokens):
    """Counted by the network itself. ViT's grid is that of its position embedding."""
    pytest.importorskip('mmpretrain')
    setting = runpy.run_path(str(ROOT / 'tools' / 'ablate.py'))['SETTINGS'][setting]
    for row in setting.rows:
        cfg = load_config(setting.config(row))
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            backbone = MODELS.build(cfg.model.backbone)
        if row == 'vit':
            assert backbone.pos_embed.shape[1] == tokens**2
        else:
            _, grid = backbone.embed(torch.zeros(1, 1, cfg.model.backbone.img_size, cfg.model.backbone.img_size))
            assert tuple(grid) == (tokens, tokens)


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
