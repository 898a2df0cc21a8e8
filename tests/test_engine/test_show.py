"""tools/test.py --show-dir: pictures of predictions, with the colors of the images."""
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import TINY_ARCH
from mmengine.config import Config
from mmengine.runner import Runner
from recipe_run import write_data

from pervit_mm.datasets.fashion_scenes_canvas import read_idx
from pervit_mm.engine.launch import add_tta
from pervit_mm.engine.show import show_predictions
from pervit_mm.utils.errors import UserError


def config(**changes):
    return Config(dict(dict(default_scope='mmpretrain', model=dict(backbone=dict(type='PerViT', img_size=28)),
                            visualizer=dict(type='Visualizer')), **changes))


def color_images(folder):
    """Four images, blue and red in turn, in two folders of classes that have files of the same names."""
    for i in range(4):
        image = np.zeros((240, 240, 3), np.uint8)
        image[..., 0 if i % 2 == 0 else 2] = 250  # OpenCV's channels are BGR
        (folder / 'ab'[i // 2]).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / 'ab'[i // 2] / f'{i % 2}.png'), image)
    return dict(type='CustomDataset', data_root=str(folder), pipeline=[
        dict(type='LoadImageFromFile'), dict(type='Resize', scale=(56, 56)), dict(type='PackInputs')])


def gray_images(folder):
    write_data(folder, train=1, test=4)
    return dict(type='FashionMNIST', data_root=str(folder), test_mode=True, pipeline=[dict(type='PackInputs')])


@pytest.mark.parametrize('made, channels, to_rgb, views', [
    (color_images, 3, True, False), (color_images, 3, True, True), (gray_images, 1, False, False)])
def test_pictures_of_a_classifier_have_the_colors_of_its_images(tmp_path, made, channels, to_rgb, views):
    """A corner far from the text is compared with the file, with --tta too. Images of 28 px are enlarged to 224."""
    pytest.importorskip('mmpretrain')
    dataset = made(tmp_path / 'data')
    cfg = config(
        model=dict(type='ImageClassifier',
                   data_preprocessor=dict(num_classes=2, mean=[9.] * channels, std=[9.] * channels, to_rgb=to_rgb),
                   backbone=dict(type='PerViT', arch=TINY_ARCH, img_size=(28, 224), in_channels=channels),
                   head=dict(type='LinearClsHead', num_classes=2, in_channels=24, topk=(1, ))),
        test_dataloader=dict(batch_size=3, num_workers=0, dataset=dataset, collate_fn=dict(type='default_collate'),
                             sampler=dict(type='DefaultSampler', shuffle=False)),
        test_cfg=dict(), test_evaluator=[], visualizer=dict(type='UniversalVisualizer'),
        work_dir=str(tmp_path / 'work'), experiment_name=tmp_path.name)
    assert show_predictions(cfg, str(tmp_path / 'pictures'), interval=2) == str(tmp_path / 'pictures')
    if views:
        add_tta(cfg)
    runner = Runner.from_cfg(cfg)
    runner.test()
    pictures = sorted((tmp_path / 'pictures').iterdir())
    assert len(pictures) == 2, 'every second of four'
    for picture, index in zip(pictures, (0, 2), strict=True):
        drawn = cv2.imread(str(picture)).astype(int)
        if made is color_images:
            image = cv2.imread(str(tmp_path / 'data' / 'ab'[index // 2] / '0.png'))
            assert picture.name == f'{"ab"[index // 2]}_0.png_0.png'
        else:
            image = read_idx(tmp_path / 'data' / 't10k-images-idx3-ubyte')[index, ..., None].repeat(3, 2)
        image = cv2.resize(image, (224, 224))
        assert drawn.shape == image.shape
        assert np.abs(drawn - image)[160:].mean() < 3, 'below the text'
        assert np.abs(drawn - image)[:40].mean() > 9, 'the text'


def test_each_toolbox_gets_the_keys_of_its_hook(tmp_path):
    """MMSegmentation's hook writes through the visualizer. A config's other settings of the hook stay."""
    detector = config(default_scope='mmdet', default_hooks=dict(visualization=dict(
        type='DetVisualizationHook', score_thr=0.6)))
    assert show_predictions(detector, str(tmp_path)) == str(tmp_path)
    assert detector.default_hooks.visualization == dict(
        type='DetVisualizationHook', score_thr=0.6, draw=True, interval=1, show=False, test_out_dir=str(tmp_path))
    segmentor = Config(dict(default_scope='mmseg', model={}))
    assert show_predictions(segmentor, str(tmp_path), interval=5) == str(tmp_path / 'vis_data' / 'vis_image')
    assert segmentor.default_hooks.visualization == dict(
        type='SegVisualizationHook', draw=True, interval=5, show=False)
    assert segmentor.visualizer == dict(
        type='SegLocalVisualizer', save_dir=str(tmp_path), vis_backends=[dict(type='LocalVisBackend')])
    window = config(default_scope='mmseg')
    assert show_predictions(window, window=True, wait_time=0.5) is None
    assert window.default_hooks.visualization == dict(
        type='SegVisualizationHook', draw=True, interval=1, show=True, wait_time=0.5)
    assert window.visualizer == dict(type='Visualizer')


@pytest.mark.parametrize('cfg, options, message', [
    (dict(default_scope='mmpose'), {}, "default_scope is 'mmpose'; only mmpretrain, mmdet, mmseg draw"),
    ({}, dict(interval=0), '--interval 0: give 1 to draw every prediction'),
    (dict(default_scope='mmdet'), dict(interval=2), '--interval 2: the hook of MMDetection draws all images')])
def test_what_cannot_be_drawn_is_refused(cfg, options, message):
    with pytest.raises(UserError, match=message):
        show_predictions(config(**cfg), 'pictures', **options)


def test_options_without_pictures_are_refused(capsys, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')  # it would be set for good
    parse_args = runpy.run_path(str(Path(__file__).parents[2] / 'tools' / 'test.py'))['parse_args']
    for option in (('--interval', '3'), ('--wait-time', '1')):
        with pytest.raises(SystemExit, match='2'):
            parse_args(['config.py', 'model.pth', *option])
        assert '--interval and --wait-time are for --show-dir and --show' in capsys.readouterr().err
    assert parse_args(['config.py', 'model.pth', '--interval', '3', '--show-dir', 'pictures']).interval == 3
