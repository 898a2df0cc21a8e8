"""Each pre-training config of the nano size builds, and trains on what its own pipeline makes of random images."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope

import pervit_mm.selfsup  # noqa: F401  (registers everything)
from pervit_mm.engine.preflight import check_channels
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')
CONFIGS = {path.name.split('_')[0]: path
           for path in (Path(__file__).parents[2] / 'configs' / 'selfsup').glob('*_pervit-nano_*.py')}


@pytest.mark.parametrize('name', sorted({
    'attmask', 'dino', 'esvit', 'ibot', 'leopart', 'mae', 'milan', 'sfc', 'simmim', 'sit', *CONFIGS}))
def test_each_config_takes_a_step(name, tmp_path):
    """On random images, through its own pipeline; losses are finite and the backbone moves."""
    cfg = Config.fromfile(str(CONFIGS[name]))
    start = cfg.model.get('target_generator') or cfg.model.backbone.get('init_cfg')
    if start:  # the training of another config, as it would be saved
        assert start.checkpoint == f"work_dirs/{CONFIGS['ibot'].stem}/epoch_2.pth"
        start.checkpoint = str(tmp_path / 'ibot.pth')
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            teacher = MODELS.build(Config.fromfile(str(CONFIGS['ibot'])).model)
        torch.save(dict(state_dict=teacher.state_dict()), start.checkpoint)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        pipeline = [TRANSFORMS.build(transform) for transform in cfg.train_dataloader.dataset.pipeline
                    if 'LoadImage' not in transform['type']]
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
        model.init_weights()
        optim_wrapper = build_optim_wrapper(model.train(), cfg.optim_wrapper)
    if start:
        taught = (model.target_generator if name == 'milan' else model).backbone.blocks.state_dict()
        expected = teacher.teacher.module['backbone'].blocks.state_dict()
        assert all(torch.equal(taught[key], value) for key, value in expected.items())
    samples = []
    # Scenes are larger and have colors.
    shape = (100, 130, 3) if name == 'leopart' else (28, 28, 1)
    for image in torch.randint(0, 255, (4, *shape), dtype=torch.uint8).numpy():
        sample = dict(img=image, img_shape=shape[:2], ori_shape=shape[:2])
        for transform in pipeline:
            sample = transform(sample)
        samples.append(sample)
    if hasattr(model, 'set_progress'):
        model.set_progress(0.5)
    before = [param.detach().clone() for param in model.backbone.parameters()]
    log = model.train_step(default_collate(samples), optim_wrapper)
    assert all(value.isfinite() for value in log.values()) and log['loss'] != 0
    moved = [not torch.equal(old, new) for old, new in zip(before, model.backbone.parameters())]
    # Convolutions of the position network have no gradient in the first step.
    assert sum(moved) > 0.8 * len(moved)
    assert not torch.isnan(torch.cat([param.flatten() for param in model.parameters()])).any()


@pytest.mark.parametrize('name', ['mae', 'milan'])
def test_a_run_finds_that_the_parts_fit(name):
    """What a run checks ahead of training knows decoders of pixels from those of features."""
    cfg = Config.fromfile(str(CONFIGS[name]))
    cfg.model.get('target_generator', {})['checkpoint'] = None
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        check_channels(MODELS.build(cfg.model))
        for key, value, words in (('neck.out_channels', 3, 'model.neck.out_channels is 3, .* has in_channels=1'),
                                  ('head.in_channels', 3, 'model.head.in_channels is 3, .* has in_channels=1'),
                                  ('head.patch_size', 7, 'model.head.patch_size is 7, .* has out_stride=4'),
                                  ) if name == 'mae' else ():
            changed = cfg.copy()
            changed.merge_from_dict({f'model.{key}': value})
            with pytest.raises(UserError, match=words):
                check_channels(MODELS.build(changed.model))
