"""Priors of Fashion-MNIST on small files of its format, and the study with a stand-in for training."""
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from made_items import make_fashion_mnist, make_items
from mmengine.config import DictAction
from mmengine.registry import HOOKS, MODELS, DefaultScope

from pervit_mm.apis import attention_priors
from pervit_mm.apis.configs import load_config
from pervit_mm.apis.labeled_sets import build_loader, build_sets, mixed
from pervit_mm.benchmarks import run_queue
from pervit_mm.evaluation import recalibrate
from pervit_mm.selfsup import center_prior, gaussian_prior, read_prior
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')
pytest.importorskip('sklearn')
pytestmark = pytest.mark.usefixtures('one_thread')
TOOLS = Path(__file__).resolve().parents[2] / 'tools'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('world') / 'fashion_mnist'
    make_fashion_mnist(folder)
    return folder


def config(data):
    cfg = load_config(TOOLS.parent / 'configs' / 'pervit_nano_3e_fashion-mnist.py')
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(data)
        loader.update(num_workers=0, persistent_workers=False)
    return cfg


def checkpoint_of(cfg, path):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    torch.save(dict(state_dict=model.state_dict()), path)
    return model.eval()


def options_of(run):
    return {key: DictAction._parse_iterable(value) for key, value in (
        option.split('=', 1) for option in run.options)}


def test_the_file_of_mean_foreground(data, tmp_path, capsys):
    main = runpy.run_path(str(TOOLS / 'make_attention_prior.py'))['main']
    main(['fashion-mnist', str(tmp_path / 'prior.npz'), '--root', str(data)])
    assert 'absolute, 7 x 7 tokens, mean foreground' in capsys.readouterr().out
    share = (make_items(0)[0] > 16).mean(0)
    expected = [[share[4 * row:4 * row + 4, 4 * col:4 * col + 4].mean() for col in range(7)] for row in range(7)]
    np.testing.assert_allclose(read_prior(tmp_path / 'prior.npz').weights, expected)
    main(['ring', str(tmp_path / 'new' / 'ring.npz'), '--grid', '5', '6', '--radii', '1', '2'])
    assert read_prior(tmp_path / 'new' / 'ring.npz').hw_shape == (5, 6)
    with pytest.raises(SystemExit, match='tools/prepare_fashion_mnist.py puts it in place'):
        main(['fashion-mnist', str(tmp_path / 'prior.npz'), '--root', str(tmp_path)])


def test_heads_are_scored_on_the_items_of_the_test_images(data, tmp_path):
    """Against attention as it is recorded, and masks from the files."""
    from sklearn.metrics import average_precision_score

    from pervit_mm.analysis import capture
    cfg = config(data)
    model = checkpoint_of(cfg, tmp_path / 'model.pth')
    prior = center_prior((7, 7), 2.)
    found = attention_priors.score_heads(cfg, str(tmp_path / 'model.pth'), prior=prior, block=2, images=None,
                                         device='cpu')
    images = make_items(1)[0]
    inputs = (torch.from_numpy(images)[:, None].float() - 72.94) / 90.02
    with capture(model) as record, torch.no_grad():
        model.backbone(inputs)
    received = record.blocks[2].attention.mean(2).numpy()
    tokens = (images > 16).reshape(-1, 7, 4, 7, 4).mean((2, 4)).reshape(-1, 49) > 0.5
    heads = [[average_precision_score(truth, one) for one in (*maps, maps.mean(0))]
             for truth, maps in zip(tokens, received)]
    assert (*found.heads, found.together) == pytest.approx(100 * np.mean(heads, 0), abs=0.01)
    assert found.prior == pytest.approx(100 * np.mean([
        average_precision_score(truth, prior.target().numpy()) for truth in tokens]))
    assert found.chance == pytest.approx(100 * tokens.mean())
    state = {f'teacher.{key}': value for key, value in model.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'teacher.pth')
    anew = attention_priors.score_heads(cfg, str(tmp_path / 'teacher.pth'), prefix='teacher.backbone.', block=2,
                                        recalibration=30, images=None, device='cpu')
    recalibrate(model, build_loader(cfg, mixed(build_sets(cfg)[0], 30)), 30)
    with capture(model) as record, torch.no_grad():
        model.backbone(inputs)
    received = record.blocks[2].attention.mean((1, 2)).numpy()
    assert anew.together == pytest.approx(100 * np.mean([
        average_precision_score(truth, one) for truth, one in zip(tokens, received)]), abs=0.01)
    assert anew.prior is None and anew.together != found.together and anew.chance == found.chance
    for options, words in ((dict(block=6), 'block must be the number of one of 6 blocks, from -6 to 5, got 6'),
                           (dict(recalibration=-1), r'recalibration \(--recalibrate\) must be a number of images')):
        with pytest.raises(UserError, match=words):
            attention_priors.score_heads(cfg, str(tmp_path / 'model.pth'), device='cpu', **options)
    for other, words in ((gaussian_prior((7, 7), 1.), 'must be absolute'), (center_prior((6, 6), 1.), r'\(6, 6\)')):
        with pytest.raises(UserError, match=words):
            attention_priors.score_heads(cfg, str(tmp_path / 'model.pth'), prior=other, device='cpu')


def test_the_study_gives_its_prior_to_the_hook_and_prints_the_table(data, tmp_path, monkeypatch, capsys):
    root, seen = tmp_path / 'runs', []

    def train_all(tool, runs, folder, jobs):
        for run in runs:
            (folder / run.name).mkdir()
            (folder / run.name / 'last_checkpoint').write_text('epoch_3.pth')
            cfg = load_config(run.config)
            cfg.merge_from_dict(options_of(run))
            cfg.dump(folder / run.name / Path(run.config).name)
            seen.append(run)
        return {run.name: {'accuracy/top1': 90. + run.seed} for run in runs}

    monkeypatch.setattr(run_queue, 'train_all', train_all)
    def score_heads(cfg, checkpoint, *, prior, images):
        assert cfg.test_dataloader.dataset.data_root == str(data) and cfg.test_dataloader.batch_size == 7
        return attention_priors.HeadScores((80. if 'prior_' in checkpoint else 60., 55.), 70., 40., 85.)

    monkeypatch.setattr(attention_priors, 'score_heads', score_heads)
    monkeypatch.setattr('sys.argv', ['attention_prior_study.py', '--data', str(data), '--root', str(root),
                                     '--cfg-options', 'test_dataloader.batch_size=7'])
    runpy.run_path(str(TOOLS / 'attention_prior_study.py'), run_name='__main__')
    assert [run.name for run in seen] == ['plain_seed0', 'prior_seed0', 'plain_seed1', 'prior_seed1']
    assert '| prior | 1 | 91.0 | 80.0 | 55.0 | 85.0 | 40.0 |' in capsys.readouterr().out
    plain, with_prior = (load_config(root / run.name / Path(run.config).name) for run in seen[:2])
    assert plain.train_dataloader.dataset.data_root == plain.val_dataloader.dataset.data_root == str(data)
    hook = HOOKS.build(with_prior.custom_hooks[-1])
    np.testing.assert_allclose(hook.prior_loss.target0, read_prior(root / 'foreground.npz').target())
    for key in plain.keys() - {'custom_hooks', 'custom_imports'}:
        assert plain[key] == with_prior[key], key
