"""Predictions beside the truth, on two scenes, against the label maps and the network itself."""
import copy
import importlib.util
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from dense_configs import read
from mmengine.registry import MODELS, DefaultScope

pytest.importorskip('mmseg')
from pervit_mm.analysis.mosaics import GAP  # noqa: E402
from pervit_mm.apis.beside_truth import beside_truth, color_labels  # noqa: E402
from pervit_mm.apis.inference import ImagePredictor  # noqa: E402
from pervit_mm.utils.errors import UserError  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs' / 'segmentation' / 'pervit-nano_fpn_fashion-scenes.py'
SIZES = ((70, 96), (96, 50))
CELL = 96  # the longer sides, so that a pixel stays a pixel


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """Two scenes of noise with label maps of noise, an untrained model's file and a config that reads the scenes."""
    folder, rng = tmp_path_factory.mktemp('scenes'), np.random.default_rng(0)
    for i, size in enumerate(SIZES):
        for name, content in (('test', rng.integers(0, 256, (*size, 3))), ('labels/test', rng.integers(0, 11, size))):
            (folder / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name / f'{i}.png'), content.astype(np.uint8))
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(copy.deepcopy(read('segmentation/pervit-nano_fpn_fashion-scenes')).model).eval()
    with torch.no_grad():  # center the logits, or nearly all pixels would get the same class
        model.decode_head.conv_seg.weight.normal_()
        model.decode_head.conv_seg.bias -= model(torch.randn(1, 3, 96, 96)).mean((0, 2, 3))
    classes = read('segmentation/pervit-nano_fpn_fashion-scenes').metainfo['classes']
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=classes))), folder / 'model.pth')
    (folder / 'scenes.py').write_text(
        f'_base_ = {str(CONFIG)!r}\nmodel = dict(backbone=dict(init_cfg=None))\n'
        f'test_dataloader = dict(dataset=dict(data_root={str(folder)!r}))\n')
    return folder, model


@pytest.fixture(scope='module')
def predictor(scenes):
    return ImagePredictor(str(scenes[0] / 'scenes.py'), str(scenes[0] / 'model.pth'), 'cpu')


def test_rows_have_the_image_the_truth_and_what_the_network_says(scenes, predictor):
    folder, model = scenes
    picture = beside_truth(predictor, [1, 0], cell=CELL)
    palette = np.array(read('segmentation/pervit-nano_fpn_fashion-scenes').metainfo['palette'])
    top, left = GAP + 14, GAP + 7
    for row, number in enumerate((1, 0)):
        image = cv2.imread(str(folder / 'test' / f'{number}.png'))[..., ::-1]
        truth = cv2.imread(str(folder / 'labels' / 'test' / f'{number}.png'), cv2.IMREAD_UNCHANGED)
        height, width = truth.shape
        x = (torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None] - 72.94) / 90.02
        x = torch.nn.functional.pad(x, (0, -width % 32, 0, -height % 32))
        with torch.no_grad():
            said = torch.nn.functional.interpolate(model(x), x.shape[2:], mode='bilinear').argmax(1)[0].numpy()
        for column, expected in enumerate((image, palette[truth], palette[said[:height, :width]])):
            drawn = picture[top + row * (CELL + GAP):, left + column * (CELL + GAP):][:height, :width]
            assert (drawn == expected).all(-1).mean() > (0.999 if column == 2 else 1 - 1e-9), (row, column)


def test_pixels_that_do_not_count_are_white():
    drawn = color_labels(np.array([[0, 1, 255]], np.uint8), [(1, 2, 3), (4, 5, 6)])
    np.testing.assert_array_equal(drawn, [[(1, 2, 3), (4, 5, 6), (255, 255, 255)]])


@pytest.mark.parametrize('options, message', [
    (dict(images=[2]), r'images \(--images\) must be numbers from 0 to 1, got 2'),
    (dict(images=[]), r'images \(--images\) must be numbers from 0 to 1, got none'),
    (dict(split='train'), r"split \(--split\) must be one of val, test, got 'train'"),
    (dict(cell=0), r'cell \(--cell\) must be a positive number of pixels, got 0'),
])
def test_wrong_arguments_are_named(predictor, options, message):
    with pytest.raises(UserError, match=message):
        beside_truth(predictor, **options)


def test_the_tool_writes_the_picture(scenes, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location('beside_truth', ROOT / 'tools' / 'analysis_tools' / 'beside_truth.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    arguments = [str(scenes[0] / 'scenes.py'), '--weights', str(scenes[0] / 'model.pth'), '--device', 'cpu']
    out = str(tmp_path / 'out' / 'picture.png')
    tool.main([*arguments, '--images', '0', '--out', out])
    assert os.path.isfile(out) and cv2.imread(out).shape[1] == GAP + 7 + 3 * (224 + GAP)
    assert f'1 images: {out}' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='beside_truth.py: .*images'):
        tool.main([*arguments, '--images', '9'])
