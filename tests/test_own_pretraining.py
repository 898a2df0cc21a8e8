"""The configs for own images in docs/own_pretraining.md, as they are written there, on a small generated folder."""
import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from page_configs import ROOT, make_clone, page_configs, read_page, write_tiny

from pervit_mm.apis.configs import load_config
from pervit_mm.datasets.image_folder import make_image_folder
from pervit_mm.engine import launch

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')

PAGE, CONFIGS = read_page('own_pretraining.md'), page_configs('own_pretraining.md')


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """A folder like the top of a clone, with the configs, images, and weights where the configs look for them."""
    folder = tmp_path_factory.mktemp('clone')
    make_clone(folder, CONFIGS)
    make_image_folder(folder / 'data' / 'custom', 3, 4, 1)
    shutil.copytree(folder / 'data' / 'custom' / 'train', folder / 'photos')
    write_tiny(folder / 'pervit_tiny.pth')
    write_tiny(folder / 'work_dirs' / 'my_dino' / 'epoch_20.pth', 'teacher.module.backbone.')
    return folder


def priors():
    """Run the page's commands that make prior files."""
    main = runpy.run_path(str(ROOT / 'tools' / 'make_attention_prior.py'))['main']
    commands = re.findall(r'python tools/make_attention_prior.py (.*?) +#', PAGE)
    assert len(commands) == 2
    for command in commands:
        main(command.split())


@pytest.mark.parametrize('name', CONFIGS)
def test_a_documented_config_trains(name, clone, monkeypatch):
    """One short epoch, as tools/train.py does it. What the config starts from is taken over."""
    monkeypatch.chdir(clone)
    priors()
    options = {'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False, 'log_level': 'ERROR',
               'train_dataloader.batch_size': 2, 'train_cfg.max_epochs': 1}
    if 'tiny' in CONFIGS[name]:  # one step with 224 px takes seconds
        options['train_dataloader.dataset.indices'] = 2
    cfg = load_config(name, options)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        launch.prepare_config(cfg, name, validate=False)
        runner = launch.build_runner(cfg)
        runner._init_model_weights()
        start = (cfg.model.backbone.get('init_cfg') or {}).get('checkpoint')
        if start:
            saved = torch.load(start)['state_dict']
            prefix = cfg.model.backbone.init_cfg.prefix
            for key, value in runner.model.backbone.state_dict().items():
                assert torch.equal(value, saved[f'{prefix}{key}']), key
        before = {key: value.clone() for key, value in runner.model.named_parameters()}
        runner.train()
    moved = [key for key, value in runner.model.named_parameters() if not torch.equal(before[key], value)]
    assert 'backbone.stem.layers.0.conv.weight' in moved and runner.message_hub.get_scalar('train/loss').current() > 0
    logged = set(runner.message_hub.log_scalars)
    assert ({'train/position_prior_loss', 'train/attention_prior_loss'} <= logged) == (name == 'my_prior.py')


def test_the_second_task_of_the_page_starts_from_the_first(clone, monkeypatch):
    """With the options of the second command; its labels and its metric are those of the task."""
    monkeypatch.chdir(clone)
    words = PAGE.split('--cfg-options model.task=1')[1].split('\n\n')[0].replace('\\\n', ' ').split()
    options = {'model.task': 1, **dict(word.split('=', 1) for word in words)}
    assert options.pop('train_dataloader.dataset.classes') == '[2]'
    for key in ('val_evaluator.seen', 'test_evaluator.seen'):
        options[key] = int(options[key])
    first = load_config('my_tasks.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        Path('work_dirs/task0').mkdir()
        torch.save(dict(state_dict=MODELS.build(first.model).state_dict()), options['load_from'])
        cfg = load_config('my_tasks.py', {
            **options, 'train_dataloader.dataset.classes': [2], 'train_dataloader.batch_size': 1,
            'train_cfg.max_epochs': 1, 'log_level': 'ERROR', 'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False, 'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False})
        launch.prepare_config(cfg, 'my_tasks.py', work_dir='work_dirs/task1')
        runner = launch.build_runner(cfg)
        runner.train()
    logged = runner.message_hub.log_scalars
    assert {'train/lwf_loss', 'val/tasks/aware_0', 'val/tasks/agnostic_1'} <= set(logged)
    assert len(runner.train_dataloader.dataset) == 4


def test_the_page_has_all():
    assert list(CONFIGS) == ['my_dino.py', 'my_finetune.py', 'my_nano_dino.py', 'my_prior.py', 'my_tasks.py']
