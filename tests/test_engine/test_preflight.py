"""A mistake in a config is reported as one sentence before the first iteration."""
import pytest
from small_run import write_world

from pervit_mm.apis.configs import load_config
from pervit_mm.engine import launch
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A folder with data of three classes and a config."""
    return write_world(tmp_path_factory.mktemp('world'))


# The mistake as --cfg-options, and what the sentence must say.
MISTAKES = [
    ({'optim_wrapper.optimizer.type': 'AdamWW'},
     r"optim_wrapper.optimizer\['type'\] must be a registered optimizer, got 'AdamWW'"),
    ({'optim_wrapper.optimizer.lrr': 1}, 'optim_wrapper of the config .*lrr'),
    ({'optim_wrapper.type': 'OptimWraper'}, 'optim_wrapper of the config .*OptimWraper'),
    ({'optim_wrapper.constructor': 'None_'}, 'optim_wrapper of the config .*None_'),
    ({'param_scheduler.1.type': 'CosineLR'}, 'param_scheduler of the config .*CosineLR'),
    ({'param_scheduler.1.T_maxx': 3}, 'param_scheduler of the config .*T_maxx'),
    ({'model.type': 'ImageClasifier'}, 'model of the config .*ImageClasifier'),
    ({'model.backbone.type': 'PerVit'}, 'model of the config .*PerVit'),
    ({'model.backbone.arch': 'huge'}, "arch must be one of .* got 'huge'"),
    ({'model.backbone.depth': 3}, 'model of the config .*depth'),
    ({'model.backbone': 'tiny'}, 'model of the config'),
    ({'model.backbone.norm_cfg.type': 'LayerNorm_'},
     r"norm_cfg\['type'\] must be a registered model, got 'LayerNorm_'"),
    ({'model.backbone.norm_cfg': 3}, 'norm_cfg must be a dict with a type, got 3'),
    ({'model.backbone.act_cfg': dict()}, r"act_cfg\['type'\] must be a registered model, got None"),
    ({'model.backbone.stem_cfg': dict(norm_cfg=dict(type='B'))}, r"stem_cfg\['norm_cfg'\]\['type'\] must be .*'B'"),
    ({'model.backbone.stem_cfg': 'conv'}, "stem_cfg must be a dict .* got 'conv'"),
    ({'model.backbone.window_size': 99}, r'window_size=99 is in tokens, .* at most 4096'),
    ({'model.backbone.drop_path_rate': 1.5}, r'drop_path_rate must be in \[0, 1\), got 1.5'),
    ({'model.backbone.out_indices': 9}, 'out_indices must be in'),
    ({'model.backbone.position_cfg.type': 'Peripheral'}, 'model of the config .*Peripheral'),
    ({'model.head.type': 'LinearHead'}, 'model of the config .*LinearHead'),
    ({'model.head.num_classes': 0}, 'model of the config'),
    ({'model.head.num_classes': 2, 'model.head.topk': (1, )},
     r'model.head.num_classes is 2, and train_dataloader.dataset has 3 classes: set it to 3'),
    ({'model.head.topk': (1, 2000)}, r'model.head.topk is \(1, 2000\), and there are 1000 classes'),
    ({'model.head.in_channels': 280}, 'model.head.in_channels is 280, and the backbone gives 12 channels: set it'),
    ({'model.head.loss.type': 'CrossEntropy'}, 'model of the config .*CrossEntropy'),
    ({'model.train_cfg.augments.0.type': 'MixUp'}, 'model of the config .*MixUp'),
    ({'data_preprocessor.meann': [1.]}, 'model of the config .*meann'),
    ({'train_dataloader.dataset.type': 'ImageNett'}, 'train_dataloader of the config .*ImageNett'),
    ({'train_dataloader.dataset.pipeline.1.type': 'RandomCropp'}, 'train_dataloader of the config .*RandomCropp'),
    ({'train_dataloader.dataset.pipeline.1.scaale': 3}, 'train_dataloader of the config .*scaale'),
    ({'train_dataloader.sampler.type': 'Sampler_'}, 'train_dataloader of the config .*Sampler_'),
    ({'train_dataloader.batch_size': 1000, 'train_dataloader.drop_last': True},
     'do not fill a batch of 1000: make train_dataloader.batch_size smaller'),
    ({'train_dataloader.batch_size': 0}, 'train_dataloader of the config'),
    ({'train_dataloader.num_workers': -1}, 'train_dataloader of the config'),
    ({'train_dataloader.dataset.data_root': 'nowhere'}, "'nowhere/train' does not exist"),
    ({'val_dataloader.dataset.data_root': 'nowhere'}, "'nowhere/val' does not exist"),
    ({'val_evaluator.type': 'Acuracy'}, 'evaluator of the config .*Acuracy'),
    ({'train_cfg.max_epochs': 0}, 'max_epochs is 0, so there is nothing to train'),
    ({'train_cfg.max_epochs': 1.5}, 'train_cfg .*integer'),
    ({'train_cfg.max_epoch': 2}, 'train_cfg .*max_epoch'),
    ({'train_cfg.val_interval': 0}, 'train_cfg'),
    ({'default_hooks.checkpoint.type': 'Checkpoint'}, 'hooks of the config .*Checkpoint'),
    ({'default_hooks.checkpoint.rule': 'bigger', 'default_hooks.checkpoint.save_best': 'auto'},
     'hooks of the config .*bigger'),
    ({'default_hooks.logger.intervall': 3}, 'hooks of the config .*intervall'),
    ({'custom_hooks': [dict(type='PeripheralInitHook', size=1)]}, 'size of PeripheralInit must be two numbers'),
    ({'custom_hooks': [dict(type='NoHook')]}, 'hooks of the config .*NoHook'),
    ({'visualizer.type': 'Visualiser'}, 'visualizer of the config .*Visualiser'),
    ({'load_from': 'nowhere.pth'}, "load_from: 'nowhere.pth' is not a file"),
    ({'model.backbone.init_cfg': dict(type='Pretrained', checkpoint='nowhere.pth')}, "'nowhere.pth' is not a file"),
]


@pytest.mark.parametrize('options, message', MISTAKES, ids=[' '.join(options) + f'-{i}' for i, (options, _) in
                                                           enumerate(MISTAKES)])
def test_a_mistake_is_one_sentence_before_the_first_iteration(world, tmp_path, monkeypatch, options, message):
    monkeypatch.syspath_prepend(str(world))
    iterations = []
    monkeypatch.setattr('mmengine.runner.EpochBasedTrainLoop.run_iter', lambda *args: iterations.append(1))
    with pytest.raises(UserError, match=message) as stop:
        cfg = load_config(world / 'small.py', {'train_dataloader.num_workers': 0, 'val_dataloader.num_workers': 0,
                                               'train_dataloader.persistent_workers': False,
                                               'val_dataloader.persistent_workers': False, **options})
        launch.prepare_config(cfg, 'small.py', work_dir=str(tmp_path))
        cfg.experiment_name = tmp_path.name
        launch.build_runner(cfg).train()
    assert not iterations
    assert len(str(stop.value).splitlines()) == 1
