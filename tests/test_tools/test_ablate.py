"""tools/ablate.py: every ablation is a row, and a setting changes what it says; training is a stand-in."""
import runpy
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from pervit_mm.apis.configs import load_config
from pervit_mm.benchmarks import run_queue

pytest.importorskip('scipy')
ROOT = Path(__file__).resolve().parents[2]


def test_every_ablation_is_a_row_and_every_setting_has_its_configs():
    tool = runpy.run_path(str(ROOT / 'tools' / 'ablate.py'))
    folder = ROOT / 'configs' / 'ablation'
    for setting in tool['SETTINGS'].values():
        assert all(setting.config(row).is_file() for row in setting.rows)
    for name, files in (('images-6000', 'few'), ('tokens-14', 'tokens-14'), ('clutter', 'clutter')):
        setting = tool['SETTINGS'][name]
        assert {setting.config(row) for row in setting.rows} == set((folder / files).glob('*.py'))
    assert set(tool['SETTINGS']['all'].rows) == set(tool['ROWS']) == {path.stem for path in folder.glob('*.py')}


def test_a_setting_changes_images_and_schedule():
    tool = runpy.run_path(str(ROOT / 'tools' / 'ablate.py'))
    setting = tool['SETTINGS']['images-600']
    cfg = load_config(setting.config('no-position'))
    cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in (
        option.split('=') for option in setting.options('no-position', 3))})
    few, whole = cfg.train_dataloader.dataset, load_config(ROOT / 'configs' / 'ablation' / 'no-position.py')
    assert few.type == 'PerViTFewLabels' and (few.shots, few.seed) == (60, 3)
    assert few.dataset == whole.train_dataloader.dataset and cfg.model == whole.model
    assert cfg.train_cfg.max_epochs == cfg.train_cfg.val_interval == 100
    warm_up, cosine = cfg.param_scheduler
    assert warm_up.end == cosine.begin == 8.33 and cosine.end == 100


def test_rows_with_position_log_how_far_it_moves():
    setting = runpy.run_path(str(ROOT / 'tools' / 'ablate.py'))['SETTINGS']['clutter']
    assert setting.options('full', 0) == ('default_hooks.position_shift.type=PerViTPositionShiftHook', )
    assert setting.options('vit', 0) == setting.options('no-position', 0) == ()


def test_the_position_network_alone_learns_faster():
    pytest.importorskip('mmpretrain')
    cfg = load_config(ROOT / 'configs' / 'ablation' / 'fast-position.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    rates = {id(p): (group['lr'], group['weight_decay']) for group in optimizer.param_groups for p in group['params']}
    for name, param in model.named_parameters():
        assert rates[id(param)] == (pytest.approx(0.02), 0.) if 'position' in name else rates[id(param)][0] == 0.002


@pytest.mark.parametrize('setting, tokens', [('tokens-14', 14), ('clutter', 7), ('images-600', 7)])
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


@pytest.mark.parametrize('name', ['fast-position', 'no-position', 'no-cpe', 'no-position_no-cpe'])
def test_a_row_on_few_images_is_the_row_on_all(name):
    """But for the data set."""
    folder = ROOT / 'configs' / 'ablation'
    few, whole = load_config(folder / 'few' / f'{name}_few.py'), load_config(folder / f'{name}.py')
    assert (few.model, few.optim_wrapper) == (whole.model, whole.optim_wrapper)


def test_mistakes_are_told_ahead_of_all_runs(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(run_queue, 'train_all', None)
    monkeypatch.chdir(tmp_path)
    for options, words in ((['--seeds', '0', '0'], '--seeds must differ, got [0, 0]'),
                           (['--figure', 'a.png', '--seeds', '0'], '--figure needs the row full, another one, and two'),
                           (['--setting', 'clutter'], 'run "python tools/prepare_fashion_clutter.py"'),
                           (['--setting', 'clutter', '--rows', 'patchify'], 'has the rows full, no-position, ')):
        monkeypatch.setattr('sys.argv', ['ablate.py', *options])
        with pytest.raises(SystemExit):
            runpy.run_path(str(ROOT / 'tools' / 'ablate.py'), run_name='__main__')
        assert words in capsys.readouterr().err


def test_the_table_compares_with_the_full_row_seed_by_seed(monkeypatch, capsys, tmp_path):
    """Differences -1, -2 and -3: mean -2, interval ± 2.48, p 0.074; see test_paired.py."""
    seen = []

    def train_all(tool, runs, root, jobs):
        seen.extend(run.name for run in runs)
        return {run.name: {'accuracy/top1': 88. - (0 if 'full' in run.name else run.seed + 1),
                           **({f'position_shift/block{i}': 0.01 * i for i in range(12)} if 'full' in run.name else {})}
                for run in runs}

    monkeypatch.setattr(run_queue, 'train_all', train_all)
    monkeypatch.setattr('sys.argv', ['ablate.py', '--rows', 'full', 'no-cpe', '--out', str(tmp_path / 'runs.csv'),
                                      '--figure', str(tmp_path / 'runs.png')])
    runpy.run_path(str(ROOT / 'tools' / 'ablate.py'), run_name='__main__')
    assert seen == ['full_seed0', 'no-cpe_seed0', 'full_seed1', 'no-cpe_seed1', 'full_seed2', 'no-cpe_seed2']
    assert '| 86.00 ± 1.00 | -2.00 (-4.48 to +0.48) | 0.074 |' in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / 'runs.png')).std() > 10
    monkeypatch.setattr('sys.argv', ['ablate.py', '--rows', 'full', 'no-cpe', '--reference', 'no-cpe'])
    runpy.run_path(str(ROOT / 'tools' / 'ablate.py'), run_name='__main__')
    lines = capsys.readouterr().out
    assert '| to `no-cpe` |' in lines and '| 88.00 ± 0.00 | +2.00 (-0.48 to +4.48) | 0.074 |' in lines
    moved = ' '.join(f'{0.01 * i:.3f}' for i in range(12))
    assert (tmp_path / 'runs.csv').read_text().splitlines()[1:5] == [
        *(f'all,full,{seed},88.0,{moved}' for seed in range(3)), 'all,no-cpe,0,87.0,']


def test_the_page_has_the_tables_that_the_raw_values_give(capsys, monkeypatch, tmp_path):
    """All files in one command, so nothing is trained; the figure has every setting."""
    files = [str(path) for path in sorted((ROOT / 'docs' / 'data').glob('ablation_*.csv')) if 'before' not in path.name]
    assert len(files) >= 5
    figure, together = tmp_path / 'position.png', tmp_path / 'runs.csv'
    monkeypatch.setattr('sys.argv', ['ablate.py', '--read', *files, '--figure', str(figure), '--out', str(together)])
    runpy.run_path(str(ROOT / 'tools' / 'ablate.py'), run_name='__main__')
    page = (ROOT / 'docs' / 'results.md').read_text().splitlines()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('|')]
    assert len(lines) > 50
    assert [line for line in lines if line not in page] == []
    assert cv2.imread(str(figure)).std() > 10
    assert sorted(together.read_text().splitlines()[1:]) == sorted(
        line for file in files for line in open(file).read().splitlines()[1:])


def test_mistakes_in_what_is_read(monkeypatch, capsys, tmp_path):
    few = str(ROOT / 'docs' / 'data' / 'ablation_images_600.csv')
    other, alone = tmp_path / 'other.csv', tmp_path / 'alone.csv'
    other.write_text('setting,row,seed,top1,moved\nall,wide,0,80.0,\n')
    alone.write_text('setting,row,seed,top1,moved\nall,vit,0,80.0,\n')
    for options, words in (([few, '--rows', 'full'], '--read trains nothing, so it takes no --rows'),
                           ([str(other)], '--read: wide is no setting or row of this command'),
                           ([few, few], 'has seed 0 of the row full of images-600 a second time'),
                           ([str(alone), '--figure', 'a.png'], '--figure needs the row full and another one')):
        monkeypatch.setattr('sys.argv', ['ablate.py', '--read', *options])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / 'tools' / 'ablate.py'), run_name='__main__')
        assert words in f'{stopped.value}{capsys.readouterr().err}'
