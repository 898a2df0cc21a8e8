"""Test-time augmentation (TTA): tools/test.py --tta against the average of an image and its mirror image."""
import copy

import cv2
import numpy as np
import pytest
import torch
from conftest import randomize
from mmengine.config import Config
from mmengine.registry import DefaultScope
from recipe_run import ROOT, tested, write_config

from pervit_mm.apis.configs import load_config
from pervit_mm.datasets.fashion_scenes_canvas import read_idx
from pervit_mm.engine import launch
from pervit_mm.utils.errors import UserError

NANO = ROOT / 'configs' / 'pervit_nano_3e_fashion-mnist.py'
SCENES = ROOT / 'configs' / 'segmentation' / 'pervit-nano_fpn_fashion-scenes.py'


@pytest.fixture
def classifier(tmp_path):
    """A config, its random model, and its checkpoint."""
    pytest.importorskip('mmpretrain')
    from mmpretrain.registry import MODELS
    config = write_config(tmp_path, f"_base_ = '{NANO.relative_to(ROOT)}'\n")
    cfg = load_config(config)
    model = randomize(MODELS.build(cfg.model)).eval()
    images = torch.from_numpy(read_idx(tmp_path / 'data' / 't10k-images-idx3-ubyte').astype(np.float32))[:, None]
    images = (images - cfg.data_preprocessor.mean[0]) / cfg.data_preprocessor.std[0]
    with torch.no_grad():  # center the logits, or all images would get the same class
        model.head.fc.bias -= model(images).mean(0)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    return config, model, images


@torch.no_grad()
def test_a_classifier_averages_an_image_and_its_mirror_image(classifier, tmp_path):
    config, model, images = classifier
    labels = torch.arange(len(images)) % 10
    scores = [model(x).softmax(1) for x in (images, images.flip(3))]
    plain, averaged = (float((s.argmax(1) == labels).float().mean()) * 100 for s in (scores[0], sum(scores) / 2))
    assert plain != averaged, 'worth comparing'
    path = str(tmp_path / 'model.pth')
    assert tested(config, path)['accuracy/top1'] == pytest.approx(plain)
    assert tested(config, path, tta=True)['accuracy/top1'] == pytest.approx(averaged)


def test_a_pipeline_of_one_s_own_is_used(classifier, tmp_path):
    """With the image alone the result is the same as without TTA."""
    config, *_ = classifier
    own = tmp_path / 'own.py'
    own.write_text(f"_base_ = {str(config)!r}\ntta_pipeline = [dict(type='TestTimeAug', transforms=[[dict(type="
                   "'RandomFlip', prob=0.)], [dict(type='PackInputs')]])]\n")
    path = str(tmp_path / 'model.pth')
    assert tested(own, path, tta=True) == tested(own, path)


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
    cfg = load_config(SCENES, {'test_dataloader.num_workers': 0, 'test_dataloader.persistent_workers': False,
                               'test_dataloader.dataset.data_root': str(tmp_path), 'experiment_name': 'seg_tta',
                               'model.backbone.init_cfg': None})
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = randomize(MODELS.build(copy.deepcopy(cfg.model))).eval()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    launch.prepare_test_config(cfg, str(SCENES), str(tmp_path / 'model.pth'), work_dir=str(tmp_path / 'w'), tta=True)
    runner = launch.build_runner(cfg)
    runner.load_or_resume()
    found = [runner.model.test_step(batch)[0].pred_sem_seg.data for batch in runner.test_dataloader]
    for image, prediction in zip(images, found, strict=True):
        height, width = image.shape[:2]
        scores = []
        for mirrored in (False, True):
            x = torch.from_numpy(np.ascontiguousarray(image[:, ::-1, ::-1] if mirrored else image[..., ::-1]))
            x = x.permute(2, 0, 1)[None]  # OpenCV's channels are BGR
            x = torch.nn.functional.pad((x - 72.94) / 90.02, (0, -width % 32, 0, -height % 32))
            logits = torch.nn.functional.interpolate(model(x), x.shape[2:], mode='bilinear')[..., :height, :width]
            scores.append((logits.flip(3) if mirrored else logits).softmax(1))
        assert ((sum(scores) / 2).argmax(1)[0] == prediction).float().mean() > 0.999
        assert (scores[0].argmax(1)[0] == prediction).float().mean() < 0.99, 'worth comparing'
    assert runner.cfg.default_hooks.visualization.type == 'SegVisualizationHook'


def test_a_config_without_a_pipeline_is_named():
    cfg = Config(dict(default_scope='mmdet', model=dict(type='A'), test_dataloader=dict(dataset=dict(pipeline=[]))))
    with pytest.raises(UserError, match='--tta: the config has no tta_model and no tta_pipeline, and only classifiers '
                       'have a default: add them, as _base_/datasets/fashion-scenes_segmentation.py does'):
        launch.add_tta(cfg)
