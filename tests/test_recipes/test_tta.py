"""Test-time augmentation (TTA): tools/test.py --tta against the average of an image and its mirror image."""
import cv2
import numpy as np
import pytest
import torch
from conftest import randomize
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from recipe_run import ROOT, predictions, runner_to_test, write_config

from pervit_mm.apis.configs import load_config
from pervit_mm.datasets.fashion_scenes_canvas import read_idx
from pervit_mm.engine import launch
from pervit_mm.utils.errors import UserError

NANO = 'configs/pervit_nano_3e_fashion-mnist.py'
SCENES = ROOT / 'configs' / 'segmentation' / 'pervit-nano_fpn_fashion-scenes.py'


@torch.no_grad()
def test_a_classifier_averages_an_image_and_its_mirror_image(tmp_path):
    """With a pipeline of one's own, of the image alone, the scores are those without TTA."""
    pytest.importorskip('mmpretrain')
    from mmpretrain.registry import MODELS
    config, own, path = write_config(tmp_path, f'_base_ = {NANO!r}'), tmp_path / 'own.py', tmp_path / 'model.pth'
    own.write_text(f"_base_ = {str(config)!r}\ntta_pipeline = [dict(type='TestTimeAug', transforms=[[dict(type="
                   "'RandomFlip', prob=0.)], [dict(type='PackInputs')]])]\n")
    cfg = load_config(config)
    model = randomize(MODELS.build(cfg.model)).eval()
    torch.save(dict(state_dict=model.state_dict()), path)
    images = torch.from_numpy(read_idx(tmp_path / 'data' / 't10k-images-idx3-ubyte').astype(np.float32))[:, None]
    images = (images - cfg.data_preprocessor.mean[0]) / cfg.data_preprocessor.std[0]
    plain, mirrored = (model(x).softmax(1) for x in (images, images.flip(3)))
    assert (plain - mirrored).abs().max() > 1e-2, 'worth comparing'
    for file, tta, expected in ((config, False, plain), (config, True, (plain + mirrored) / 2), (own, True, plain)):
        found = torch.stack([sample.pred_score for sample in predictions(runner_to_test(file, path, tta))])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_segmentor_averages_a_scene_and_its_mirror_image(tmp_path):
    """By the config for FashionScenes, on two scenes whose sides are no multiples of 32, with its own mean and std."""
    pytest.importorskip('mmseg')
    from mmseg.registry import MODELS
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (70, 92, 3), dtype=np.uint8), rng.integers(0, 256, (96, 50, 3), dtype=np.uint8)]
    for i, image in enumerate(images):
        for folder, content in (('test', image), ('labels/test', rng.integers(0, 11, image.shape[:2], dtype=np.uint8))):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f'{i}.png'), content)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = randomize(MODELS.build(load_config(SCENES).model)).eval()
    # Center the logits, or nearly all pixels would get the same class.
    model.decode_head.conv_seg.bias -= model(torch.randn(1, 3, 96, 96)).mean((0, 2, 3))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    config = tmp_path / 'scenes.py'
    config.write_text(f'_base_ = {str(SCENES)!r}')
    runner = runner_to_test(config, tmp_path / 'model.pth', True, **{
        'test_dataloader.num_workers': 0, 'test_dataloader.persistent_workers': False,
        'test_dataloader.dataset.data_root': str(tmp_path), 'model.backbone.init_cfg': None})
    assert runner.cfg.default_hooks.visualization.type == 'SegVisualizationHook'
    for image, sample in zip(images, predictions(runner), strict=True):
        height, width = image.shape[:2]
        scores = []
        for mirrored in (False, True):
            x = torch.from_numpy(np.ascontiguousarray(image[:, ::-1, ::-1] if mirrored else image[..., ::-1]))
            x = x.permute(2, 0, 1)[None]  # OpenCV's channels are BGR
            x = torch.nn.functional.pad((x - 72.94) / 90.02, (0, -width % 32, 0, -height % 32))
            logits = torch.nn.functional.interpolate(model(x), x.shape[2:], mode='bilinear')[..., :height, :width]
            scores.append((logits.flip(3) if mirrored else logits).softmax(1))
        assert ((sum(scores) / 2).argmax(1) == sample.pred_sem_seg.data).float().mean() > 0.999
        assert (scores[0].argmax(1) == sample.pred_sem_seg.data).float().mean() < 0.99, 'worth comparing'


def test_averaged_weights_are_tested_with_augmentation(tmp_path):
    """With EMAHook in the config the whole test gives the scores that it gives without the hook."""
    pytest.importorskip('mmpretrain')
    from mmpretrain.registry import MODELS
    config, averaged, path = write_config(tmp_path, f'_base_ = {NANO!r}'), tmp_path / 'ema.py', tmp_path / 'model.pth'
    averaged.write_text(f"""_base_ = {str(config)!r}
custom_hooks = [dict(type='PerViTNonFiniteHook'),
                dict(type='EMAHook', ema_type='PerViTExponentialMovingAverage', momentum=0.1, update_buffers=True)]
""")
    state = randomize(MODELS.build(load_config(config).model)).state_dict()
    torch.save(dict(state_dict=state, ema_state_dict={f'module.{key}': value for key, value in state.items()}), path)
    scores = []
    for file in (config, averaged):
        seen, watch = [], Hook()
        watch.after_test_iter = lambda runner, batch_idx, data_batch, outputs, seen=seen: seen.extend(outputs)
        runner = runner_to_test(file, path, True)
        runner.register_hook(watch)
        runner.test()
        scores.append(torch.stack([sample.pred_score for sample in seen]))
    torch.testing.assert_close(*scores, rtol=0, atol=0)


def test_a_config_without_a_pipeline_is_named():
    cfg = Config(dict(default_scope='mmdet', model=dict(type='A'), test_dataloader=dict(dataset=dict(pipeline=[]))))
    with pytest.raises(UserError, match='--tta: the config has no tta_model and no tta_pipeline, and only classifiers '
                       'have a default: add them, see docs/recipes.md'):
        launch.add_tta(cfg)


def test_the_model_s_own_preprocessing_stays():
    """MMEngine would overwrite it by that of the config."""
    cfg = Config(dict(
        default_scope='mmpretrain', data_preprocessor=dict(mean=[1.]), model=dict(data_preprocessor=dict(mean=[2.])),
        test_dataloader=dict(dataset=dict(dataset=dict(pipeline=[dict(type='A'), dict(type='PackInputs')])))))
    launch.add_tta(cfg)
    assert cfg.data_preprocessor == cfg.model.module.data_preprocessor == dict(mean=[2.])
    assert cfg.model.type == 'AverageClsScoreTTA'
    first, second = cfg.test_dataloader.dataset.dataset.pipeline
    assert first == dict(type='A') and second.transforms[1] == [dict(type='PackInputs')]
