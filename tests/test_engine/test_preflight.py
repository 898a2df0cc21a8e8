"""A mistake in a config is reported as one sentence before the first iteration."""
import pytest
from mmengine.dataset import BaseDataset
from mmengine.registry import MODELS, DefaultScope
from small_run import ROOT

from pervit_mm.apis.configs import load_config
from pervit_mm.engine import launch
from pervit_mm.engine.preflight import building, check_channels, check_classes
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')


# The mistake as --cfg-options, and what the sentence must say.
MISTAKES = [
    ({'optim_wrapper.optimizer.type': 'AdamWW'},
     r"optim_wrapper.optimizer\['type'\] must be a registered optimizer, got 'AdamWW'"),
    ({'optim_wrapper.optimizer.lrr': 1}, 'optim_wrapper of the config .*lrr'),
    ({'optim_wrapper.type': 'OptimWraper'}, 'optim_wrapper of the config .*OptimWraper'),
    ({'optim_wrapper.constructor': 'None_'}, 'optim_wrapper of the config .*None_'),
    ({'param_scheduler.1.type': 'CosineLR'}, 'param_scheduler of the config .*CosineLR'),
    ({'param_scheduler.1.T_maxx': 3}, 'param_scheduler of the config .*T_maxx'),
    ({'model.type': 'ImageClasifier'}, "model of the config .*ImageClasifier is not in .* registry; check the name, "
     "and that custom_imports names its module: 'pervit_mm', and 'pervit_mm.selfsup' for pre-training"),
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
    ({'train_dataloader.dataset.pipeline.1': dict(type='SimMIMMaskGenerator', input_size=28, mask_patch_size=5)},
     'mask_patch_size must divide input_size=28 and be a multiple of model_patch_size=4, got 5'),
    ({'train_dataloader.dataset.pipeline.1': dict(type='SimMIMMaskGenerator', mask_ratio=1.)},
     'mask_ratio must be above 0 and below 1, got 1.0'),
    ({'train_dataloader.sampler.type': 'Sampler_'}, 'train_dataloader of the config .*Sampler_'),
    ({'train_dataloader.batch_size': 1000, 'train_dataloader.drop_last': True},
     'do not fill a batch of 1000: make train_dataloader.batch_size smaller'),
    ({'train_dataloader.batch_size': 1000, 'train_dataloader.drop_last': True, 'param_scheduler': [
        dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=2, convert_to_iter_based=True)]},
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
    ({'optim_wrapper.optimizer.lr': 'fast'}, 'optim_wrapper of the config .*float.*str'),
    ({'optim_wrapper.optimizer.lr': -1.}, 'optim_wrapper of the config .*Invalid learning rate: -1'),
    ({'optim_wrapper.optimizer': 'AdamW'}, "optimizer must be a dict with a type, got 'AdamW': give .*type=AdamW"),
    ({'optim_wrapper.accumulative_counts': 0}, 'optim_wrapper of the config .*_accumulative_counts at least'),
    ({'optim_wrapper.paramwise_cfg': 3}, 'optim_wrapper of the config .*paramwise_cfg should be None or a dict'),
    ({'optim_wrapper': None}, 'has no optim_wrapper, so it cannot be trained'),
    ({'param_scheduler.0.end': -1}, 'param_scheduler of the config .*end should be larger than begin'),
    ({'param_scheduler': 'cosine'}, '`param_scheduler` should be a'),
    ({'model.backbone.img_size': '224'}, r"img_size must be a positive int or a pair \(h, w\) of them, got '224'"),
    ({'model.backbone.out_indices': []}, 'out_indices must name at least one block, got none'),
    ({'model.backbone.frozen_stages': 9}, r'frozen_stages must be in \[-1, 2\], got 9'),
    ({'model.backbone.arch.num_heads': 5}, 'must be a multiple of num_heads=5, got 8; the nearest are 5 and 10'),
    ({'model.backbone.in_channels': 0}, 'in_channels must be a positive integer, got 0'),
    ({'model.backbone.with_cp': 'yes'}, "with_cp must be True or False, got 'yes'"),
    ({'model.backbone.distance_scale': 'auto'}, "distance_scale must be one of .* got 'auto'"),
    ({'model.backbone.position_cfg': 'peripheral'}, 'position_cfg must be a dict .*or None for no Φp'),
    ({'model.backbone.window_size': -3}, 'window_size must be a positive int .* got -3'),
    ({'model.backbone.out_type': 'token'}, "out_type must be one of .* got 'token'"),
    ({'model.backbone.init_cfg': dict(type='Pretrainedd')}, 'init_cfg of the model .*Pretrainedd'),
    ({'model.backbone.init_cfg': dict(type='Pretrained')}, 'init_cfg of the model .*checkpoint'),
    ({'model.head': None}, 'model.head is None, so there is no loss to train by'),
    ({'model.head.loss.label_smooth_val': 3.}, 'model of the config .*label_smooth_val'),
    ({'data_preprocessor.mean': [1., 2.]}, 'mean has 2 values, and model.backbone.in_channels is 3'),
    ({'data_preprocessor.num_classes': 2},
     'data_preprocessor.num_classes is 2, and model.head.num_classes is 1000: set both'),
    ({'train_dataloader.dataset.classes': ['a']}, "train_dataloader of the config .*number of subfolders"),
    ({'val_dataloader.dataset.classes': ['cross', 'disc', 'diamond']},
     "differ in classes: class 1 is 'diamond' in one and 'disc' in the other. Give both the same"),
    ({'train_dataloader.dataset.classes': 'nowhere.txt'}, 'train_dataloader of the config .*nowhere.txt'),
    ({'train_dataloader.dataset.split': 'trainn'}, "trainn' does not exist"),
    ({'train_dataloader.sampler.shufle': True}, 'train_dataloader of the config .*shufle'),
    ({'train_dataloader': None}, 'has no train_dataloader, so it cannot be trained'),
    ({'val_dataloader': None}, 'should be either all None or not None'),
    ({'val_evaluator': None}, 'should be either all None or not None'),
    ({'val_evaluator.topk': (1, 2000)}, r'val_evaluator.topk is \(1, 2000\), and there are 1000 classes'),
    ({'val_evaluator.topk': 'all'}, 'val_evaluator.topk must be positive integers'),
    ({'train_cfg.max_epochs': 'ten'}, "train_cfg .*invalid literal.*'ten'"),
    ({'train_cfg.max_iters': 10}, 'train_cfg .*max_iters'),
    ({'train_cfg': None}, 'has no train_cfg, so it cannot be trained'),
    ({'default_hooks.checkpoint.save_best': 'acuracy/top1'},
     "save_best is 'acuracy/top1', and the metrics are accuracy/top1 or accuracy/top5"),
    ({'default_hooks.checkpoint.save_best': 'accuracy/top2'}, "save_best is 'accuracy/top2', and the metrics are"),
    ({'default_hooks.checkpoint.interval': 0}, 'interval of the checkpoint hook must be -1 or .*, got 0'),
    ({'default_hooks.checkpoint.max_keep_ckpts': 0}, 'max_keep_ckpts of the checkpoint hook must be -1 or .*, got 0'),
    ({'default_hooks.logger.interval': 0}, 'hooks of the config .*interval must be greater than 0'),
    ({'custom_hooks': [dict(type='PerViTNonFiniteHook', max_skips=-1)]}, 'max_skips of PerViTNonFiniteHook .*got -1'),
    ({'custom_hooks': [3]}, 'hooks of the config .*got 3'),
    ({'visualizer.vis_backends': [dict(type='Tensorboard')]}, 'visualizer of the config .*Tensorboard'),
    ({'log_level': 'LOUD'}, r'\(such as env_cfg, randomness or log_level\) of the config .*LOUD'),
    ({'log_processor.type': 'LogProc'}, 'of the config .*LogProc'),
    ({'randomness.sed': 1}, "of the config .*sed"),
    ({'env_cfg.mp_cfg.mp_start_method': 'forkk'}, 'of the config .*forkk'),
    ({'default_scope': 'mmpretrainn'}, 'of the config .*not in the mmengine::'),
    ({'load_from': 'pervit_mm://nano'}, "'pervit_mm://nano' is none of the checkpoints"),
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


DETECTOR, SEGMENTOR = (f'configs/{name}_fashion-scenes.py'
                       for name in ('detection/mask-rcnn_pervit-nano', 'segmentation/pervit-nano_fpn'))


class Scenes:
    """A data set of so many classes."""

    def __init__(self, classes):
        self.metainfo = dict(classes=[f'class {i}' for i in range(classes)])


@pytest.mark.parametrize('toolbox, config, options, classes, message', [
    ('mmdet', DETECTOR, {'model.neck.in_stride': 16}, 10,
     'model.neck.in_stride is 16, and the backbone has out_stride=4: set it to 4'),
    ('mmdet', DETECTOR, {'model.roi_head.bbox_head.num_classes': 3}, 10,
     'model.roi_head.bbox_head.num_classes is 3, and train_dataloader.dataset has 10 classes: set it to 10'),
    ('mmdet', DETECTOR, {'model.neck.in_channels': 64}, 10,
     'model.neck.in_channels is 64, .* 96 channels: set it to 96'),
    ('mmdet', DETECTOR, {}, 10, None),
    ('mmseg', SEGMENTOR, {'model.decode_head.num_classes': 3}, 11,
     'model.decode_head.num_classes is 3, and train_dataloader.dataset has 11 classes: set it to 11'),
    ('mmseg', SEGMENTOR, {}, 11, None),
])
def test_parts_of_a_dense_model_must_fit(toolbox, config, options, classes, message):
    pytest.importorskip(toolbox)
    cfg = load_config(ROOT / config, options)
    cfg.model.backbone.pop('init_cfg', None)
    with DefaultScope.overwrite_default_scope(toolbox):
        model = MODELS.build(cfg.model)

    def check():
        check_channels(model)
        check_classes(model, Scenes(classes), 'train_dataloader')

    if message is None:
        check()
    else:
        with pytest.raises(UserError, match=message):
            check()


def test_one_class_without_a_comma_is_named():
    """``('Bag')`` is a string, and MMDetection goes on with it."""
    dataset = BaseDataset(metainfo=dict(classes='Bag'), lazy_init=True)
    with pytest.raises(UserError, match=r"metainfo.classes is 'Bag', and must be a tuple .* write \('Bag', \)"):
        check_classes(None, dataset, 'train_dataloader')


def test_a_data_set_without_an_image_is_named():
    """MMDetection's is empty where no class of the config is in the annotation file."""
    with pytest.raises(UserError, match='the data set is empty: .* metainfo.classes'), building('train_dataloader'):
        Nothing()


class Nothing(BaseDataset):
    """No image."""

    def load_data_list(self):
        return []
