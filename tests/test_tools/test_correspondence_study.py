"""tools/correspondence_study.py: its queue, its rows, and scores that are kept; training is a stand-in."""
import argparse
import runpy
from functools import partial
from pathlib import Path

import pytest
import torch
from made_items import make_fashion_mnist
from mmengine.registry import MODELS, DefaultScope

from pervit_mm.apis import correspondence_scores
from pervit_mm.apis.configs import load_config
from pervit_mm.benchmarks import run_queue

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')
TOOL = str(Path(__file__).resolve().parents[2] / 'tools' / 'correspondence_study.py')


@pytest.fixture
def study(monkeypatch, capsys, tmp_path):
    """Run the tool. It returns the runs that were asked for, the table, and the number of features that were scored."""
    make_fashion_mnist(tmp_path / 'items')
    runs, scored = [], []

    def train_all(tool, queue, root, jobs):
        runs[:] = queue
        for run in queue:
            folder, cfg = root / run.name, load_config(run.config)
            if (folder / 'last_checkpoint').is_file():
                continue
            folder.mkdir(parents=True)
            (folder / 'last_checkpoint').write_text('last.pth')
            cfg.merge_from_dict(dict(option.split('=', 1) for option in run.options))
            cfg.dump(folder / Path(run.config).name)
            with DefaultScope.overwrite_default_scope('mmpretrain'):
                backbone = MODELS.build(cfg.model.backbone)
            prefix = 'backbone.' if run.name.startswith('mae') else 'teacher.module.backbone.'
            state = {f'{prefix}{key}': value + run.seed for key, value in backbone.state_dict().items()}
            torch.save(dict(state_dict=state), folder / 'last.pth')

    def score_sequences(sequences, features):
        scored.append([found if found is None else found.shape[-1] for found in features])
        return dict(zip(('J', 'J, still', 'J, drifting'), (10. * len(scored), 1., 2.)))

    monkeypatch.setattr(run_queue, 'train_all', train_all)
    monkeypatch.setattr(correspondence_scores, 'score_sequences', score_sequences)
    monkeypatch.setattr(correspondence_scores, 'training_frames', partial(
        correspondence_scores.training_frames, count=2, frames=1))
    monkeypatch.setattr(correspondence_scores, 'frame_features', lambda network, frames: torch.zeros(
        1, network.backbone.out_channels[-1]))

    def start(*options):
        scored.clear()
        monkeypatch.setattr('sys.argv', ['correspondence_study.py', '--sequences', '2', '--data',
                                         str(tmp_path / 'items'), '--root', str(tmp_path / 'runs'), *options])
        runpy.run_path(TOOL, run_name='__main__')
        rows = [[cell.strip() for cell in line.strip('|').split('|')]
                for line in capsys.readouterr().out.strip().splitlines()[2:]]
        return list(runs), rows, list(scored)

    return start


@pytest.mark.parametrize('semantic', ['sit', 'mae', 'ibot'])  # iBOT's backbone has a token of its own
def test_a_trained_semantic_network(study, semantic, tmp_path):
    runs, rows, scored = study('--semantic', semantic, '--seeds', '0', '3', '--out', str(tmp_path / 'out.csv'))
    assert [run.name for run in runs] == ['sfc_seed0', 'sfc_seed3', f'{semantic}_seed0', f'{semantic}_seed3']
    for run in runs[2:]:  # the copies of their configs have the options
        cfg = load_config(tmp_path / 'runs' / run.name / Path(run.config).name)
        knn, = (hook for hook in cfg.custom_hooks if hook.type == 'KNNHook')
        for loader in (cfg.train_dataloader, knn.bank, knn.queries):
            assert loader.dataset.data_root == str(tmp_path / 'items')
    assert not runs[0].options
    names = ['first mask copied', 'pixels, 4 px', 'pixels, 12 px']
    for _ in range(2):
        names += ['random weights', 'fine', semantic, 'fine + random weights', f'random weights + {semantic}',
                  f'fine + {semantic}']
    assert [row[0] for row in rows] == names and [row[1] for row in rows] == ['', '', '', *'000000333333']
    # Copied masks, 4 x 4 and 12 x 12 pixels, single and joined features of PerViT-nano.
    assert scored[:9] == [[None] * 2, [16] * 2, [144] * 2, *[[96] * 2] * 3, *[[192] * 2] * 3]
    assert [row[2] for row in rows] == [f'{10. * place:.1f}' for place in range(1, 16)]
    assert len((tmp_path / 'out.csv').read_text().splitlines()) == 16
    # Nothing is scored twice, and only what depends on a checkpoint is scored again when it changes.
    assert study('--semantic', semantic, '--seeds', '0', '3')[1:] == (rows, [])
    changed = tmp_path / 'runs' / f'{semantic}_seed3' / 'last.pth'
    state = torch.load(changed, weights_only=True)['state_dict']
    torch.save(dict(state_dict={key: value + 1 for key, value in state.items()}), changed)
    assert [len(found) for found in study('--semantic', semantic, '--seeds', '0', '3')[2]] == [2, 2, 2]


def test_given_weights_have_one_row(study, tmp_path):
    _, rows, _ = study('--seeds', '0')
    weights = str(tmp_path / 'runs' / 'sit_seed0' / 'last.pth')
    runs, rows, _ = study('--seeds', '0', '3', '--weights', weights, '--scenes', 'there')
    assert [(run.name, *run.options) for run in runs] == [
        (f'sfc_seed{seed}', 'train_dataloader.dataset.data_root=there') for seed in (0, 3)]
    assert [row[:2] for row in rows if 'sit' in row[0]] == [
        ['sit', ''], *([f'{fine} + sit', seed] for seed in '03' for fine in ('random weights', 'fine'))]


def test_milan_comes_with_its_ibot():
    args = argparse.Namespace(semantic='milan', weights=None, seeds=[0, 3], cfg_options=['a=1'],
                              data='data/fashion_mnist', scenes='data/fashion_scenes')
    runs = runpy.run_path(TOOL)['queue'](args)
    assert [run.name for run in runs] == ['sfc_seed0', 'sfc_seed3', 'ibot_seed0', 'milan_seed0',
                                          'ibot_seed3', 'milan_seed3']
    assert all(run.options[0] == 'a=1' for run in runs)
    assert runs[-1].options[1:] == ('model.target_generator.checkpoint={ibot_seed3}', )
