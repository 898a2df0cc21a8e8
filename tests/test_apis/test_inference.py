"""demo/image_demo.py and the API behind it, against the networks themselves."""
import copy
import json
import shutil
import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import official_state
from dense_configs import read
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from PIL import Image

pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
run_lengths = pytest.importorskip('pycocotools.mask')
from mmdet.structures import DetDataSample  # noqa: E402

from pervit_mm.apis.building import build_model  # noqa: E402
from pervit_mm.apis.images import check_image_size, find_images  # noqa: E402
from pervit_mm.apis.inference import ImagePredictor, enlarge, predict_images  # noqa: E402
from pervit_mm.apis.named_models import models_by_name  # noqa: E402
from pervit_mm.checkpoints import load_from_pervit_mm  # noqa: E402
from pervit_mm.checkpoints.official import convert_official  # noqa: E402
from pervit_mm.utils.errors import UserError  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CLASSES = tuple('abcdefghijk')
CONFIGS = dict(
    mmpretrain='pervit_nano_3e_fashion-mnist', mmdet='detection/mask-rcnn_pervit-nano_fashion-scenes',
    mmseg='segmentation/pervit-nano_fpn_fashion-scenes')


class GrayInThree:
    """A transform that repeats a gray image in three channels."""

    def __call__(self, results):
        return dict(results, img=np.dstack([results['img']] * 3))


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """A folder with two images of noise, two files that are no images, and a subfolder with a third image."""
    folder = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    (folder / 'more').mkdir()
    for name in ('one.png', 'two.jpg', 'more/three.png'):
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (40, 56, 3), dtype=np.uint8))
    (folder / 'notes.txt').write_text('no image')
    (folder / 'broken.py').write_text('default_scope =')
    return folder


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Checkpoints of an untrained model of each toolbox."""
    folder, files = tmp_path_factory.mktemp('checkpoints'), {}
    for toolbox, name in CONFIGS.items():
        cfg = copy.deepcopy(read(name))  # MMDetection writes into what it builds
        with DefaultScope.overwrite_default_scope(toolbox):
            torch.manual_seed(0)
            model = MODELS.build(cfg.model)
        classes = CLASSES[:10 if toolbox != 'mmseg' else 11]
        meta = dict(dataset_meta=dict(classes=classes, palette=[(i, 2 * i, 3 * i) for i in range(len(classes))]))
        files[toolbox] = str(folder / f'{toolbox}.pth')
        torch.save(dict(state_dict=model.state_dict(), meta=meta), files[toolbox])
    return files


def predictor(toolbox, checkpoints):
    return ImagePredictor(str(ROOT / 'configs' / f'{CONFIGS[toolbox]}.py'), checkpoints[toolbox], 'cpu')


def test_images_are_found_by_file_folder_and_pattern(images):
    assert find_images(images / 'notes.txt') == [images / 'notes.txt'], 'a file that was named is taken'
    assert find_images(str(images)) == [images / 'one.png', images / 'two.jpg']
    assert find_images(f'{images}/**') == sorted([images / 'more/three.png', images / 'one.png', images / 'two.jpg'])
    assert find_images(f'{images}/**/*.png') == [images / 'more/three.png', images / 'one.png']
    with pytest.raises(UserError, match='nothing'):
        find_images(images / 'nothing*')


def test_class_scores_are_those_of_the_network(images, tmp_path):
    """The published classifier is used, because its scores differ from one another."""
    model = ImagePredictor('pervit_nano_fashion-mnist', device='cpu')
    shutil.copy(images / 'one.png', tmp_path / 'shot 1.2.png')
    result = model.predict(tmp_path / 'shot 1.2.png', tmp_path)
    assert len(result['pred_scores']) == 10 and sum(result['pred_scores']) == pytest.approx(1, abs=1e-5)
    bgr = cv2.imread(str(images / 'one.png')).astype(np.float64)
    gray = np.round(bgr @ np.array([2, 9, 5]) / 16).astype(np.uint8)
    # The steps of the test pipeline by hand, and a direct call of the network.
    x = torch.from_numpy(cv2.resize(gray, (28, 28), interpolation=cv2.INTER_AREA)).float().view(1, 1, 28, 28)
    scores = model.inferencer.model((x - 72.94) / 90.02).softmax(1).flatten().detach().numpy()
    assert scores.max() > 0.3, 'noise or not, a trained network has an opinion'
    assert np.allclose(result['pred_scores'], scores, atol=0.1 * scores.max())
    assert result['pred_label'] == scores.argmax() and result['pred_class'] == model.classes[scores.argmax()]
    assert result['picture'] == str(tmp_path / 'vis' / 'shot 1.2.png')
    picture = cv2.imread(result['picture'])
    assert picture.shape[0] == 224 and abs(picture.shape[1] - 224 * 56 / 40) <= 1


def test_large_pictures_stay_large(images, checkpoints, tmp_path):
    cv2.imwrite(str(tmp_path / 'large.png'), np.zeros((300, 260, 3), np.uint8))
    result = predictor('mmpretrain', checkpoints).predict(tmp_path / 'large.png', tmp_path)
    assert cv2.imread(result['picture']).shape == (300, 260, 3)


def test_detections_are_those_of_the_network(images, checkpoints, tmp_path):
    model = predictor('mmdet', checkpoints)
    result = model.predict(images / 'one.png', tmp_path, score_thr=0.05)
    assert result['detections'], 'untrained scores are near 1 / 11'
    bgr = torch.from_numpy(cv2.imread(str(images / 'one.png'))).permute(2, 0, 1)
    sample = DetDataSample(metainfo=dict(img_shape=(40, 56), ori_shape=(40, 56), scale_factor=(1., 1.)))
    with torch.no_grad(), DefaultScope.overwrite_default_scope('mmdet'):
        found = model.inferencer.model.test_step(dict(inputs=[bgr], data_samples=[sample]))[0].pred_instances
    kept = found[found.scores >= 0.05]
    assert len(kept) == len(result['detections'])
    for entry, box, label, score, mask in zip(
            result['detections'], kept.bboxes, kept.labels, kept.scores, kept.masks):
        assert entry['bbox'] == pytest.approx(box.tolist(), abs=1e-3) and entry['score'] == pytest.approx(float(score))
        assert entry['label'] == int(label) and entry['class'] == CLASSES[label]
        np.testing.assert_array_equal(run_lengths.decode(entry['mask']), mask.numpy())
    assert cv2.imread(result['picture']).shape == (400, 560, 3), 'enlarged, so that names have room'
    assert model.predict(images / 'one.png', tmp_path, score_thr=1.)['detections'] == []


def test_the_label_map_is_that_of_the_network(images, checkpoints, tmp_path):
    model = predictor('mmseg', checkpoints)
    result = model.predict(images / 'one.png', tmp_path)
    labels = cv2.imread(result['label_map'], cv2.IMREAD_UNCHANGED)
    assert labels.shape == (40, 56) and cv2.imread(result['picture']).shape == (400, 560, 3)
    bgr = torch.from_numpy(cv2.imread(str(images / 'one.png'))).permute(2, 0, 1)[None]
    network, x = model.inferencer.model, (bgr.flip(1) - 72.94) / 90.02
    x = torch.nn.functional.pad(x, (0, 8, 0, 24))  # to multiples of 32 px
    logits = network.encode_decode(x, [dict(img_shape=(64, 64), ori_shape=(64, 64))])[..., :40, :56]
    assert (logits.argmax(1)[0].numpy() == labels).mean() > 0.999
    assert sum(result['shares'].values()) == pytest.approx(1)
    for name, share in result['shares'].items():
        assert share == pytest.approx((labels == CLASSES.index(name)).mean())


def test_a_published_segmentor_works_by_name(tmp_path):
    """On a generated image, against the network with the published weights. The picture has the published colors."""
    name = 'pervit-nano_fpn_fashion-scenes'
    ground = np.random.default_rng(3).integers(0, 64, (6, 8, 3), dtype=np.uint8)
    image = cv2.resize(ground, (128, 96), interpolation=cv2.INTER_CUBIC)
    for x, y in ((8, 10), (70, 40)):  # something like trousers, and a bag
        image[y:y + 44, x:x + 16] = image[y:y + 44, x + 24:x + 40] = image[y:y + 12, x:x + 40] = (200, 180, 60)
    image[60:84, 20:60] = (60, 200, 220)
    cv2.imwrite(str(tmp_path / 'items.png'), image)
    model = ImagePredictor(name, device='cpu')
    result = model.predict(tmp_path / 'items.png', tmp_path)
    content = load_from_pervit_mm(models_by_name()[name][1])
    network = build_model(copy.deepcopy(read(f'segmentation/{name}')), content['state_dict'])
    x = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = network.encode_decode((x - 72.94) / 90.02, [dict(img_shape=(96, 128), ori_shape=(96, 128))])
    expected = logits.argmax(1)[0].numpy()
    labels = cv2.imread(result['label_map'], cv2.IMREAD_UNCHANGED)
    assert labels.shape == (96, 128) and (labels == expected).mean() > 0.999
    classes, palette = (content['meta']['dataset_meta'][key] for key in ('classes', 'palette'))
    assert len(set(expected.flat)) > 1 and result['shares'].keys() == {classes[label] for label in set(labels.flat)}
    drawn = cv2.imread(result['picture'])[..., ::-1]
    large = cv2.resize(image, (512, 384), interpolation=cv2.INTER_CUBIC)[..., ::-1]
    colors = np.kron(np.array(palette)[labels], np.ones((4, 4, 1)))
    blended = 0.2 * large + 0.8 * colors  # but for the names that are written on it
    assert (np.abs(drawn - blended).max(-1) <= 2).mean() > 0.5


def test_a_pretraining_predicts_nothing():
    name = next(name for name in models_by_name() if name.startswith('sit_'))
    with pytest.raises(UserError, match=f"^model='{name}' has no test_dataloader, .* fine-tune it first"):
        ImagePredictor(name)


@pytest.mark.parametrize('name', ['evil.yml', 'evil.yaml', 'evil.json'])
def test_a_config_that_looks_like_data_is_not_run(tmp_path, name):
    """MMEngine imports what custom_imports of a YAML file names."""
    (tmp_path / name).write_text('{"custom_imports": {"imports": ["antigravity_not_here"]}}')
    with pytest.raises(UserError, match=f"^model='.*{name}' is a file in .* runs such a config as code: give a name"):
        ImagePredictor(str(tmp_path / name), str(tmp_path / 'any.pth'), 'cpu')


def test_a_model_without_weights_takes_a_file(tmp_path):
    """The file is a converted one of the authors' layout. An image of 256 x 256 px is only cropped, not resized."""
    name = 'pervit-tiny_3rdparty_in1k'
    assert models_by_name()[name] == (str(ROOT / 'configs' / 'pervit_tiny.py'), None)
    with pytest.raises(ValueError, match=f"^model='{name}' has no published weights: give weights .--weights FILE., a "
                       'file of the authors converted with tools/model_converters/pervit_to_mm.py$'):
        ImagePredictor(name, device='cpu')
    state, _ = convert_official(official_state('tiny'))
    torch.save(dict(state_dict=state), tmp_path / 'tiny.pth')
    image = np.random.default_rng(4).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'noise.png'), image)
    model = ImagePredictor(name, str(tmp_path / 'tiny.pth'), 'cpu')
    result = model.predict(tmp_path / 'noise.png', tmp_path)
    x = torch.from_numpy(image[16:240, 16:240, ::-1].astype(np.float32)).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    network = build_model(copy.deepcopy(read('pervit_tiny')), state)
    with torch.no_grad():
        scores = network((x - mean) / std).softmax(1)[0]
    np.testing.assert_allclose(result['pred_scores'], scores, atol=1e-5)
    assert result['pred_label'] == int(scores.argmax()) and len(model.classes) == 1000


@pytest.mark.parametrize('model, weights', [
    ('pervit_nano_fashion-mnist', 'pervit-nano_fpn_fashion-scenes'),
    ('pervit-nano_fpn_fashion-scenes', 'pervit_nano_fashion-mnist'),
    ('mask-rcnn_pervit-nano_fashion-scenes', 'pervit-nano_fpn_fashion-scenes'),
])
def test_weights_of_another_model_are_refused(model, weights):
    """The inferencers take what fits, and predict with the rest at random."""
    words = "^weights='pervit_mm://.* is not of this config: .*: give a checkpoint of this model"
    with pytest.raises(UserError, match=words):
        ImagePredictor(model, models_by_name()[weights][1], 'cpu')


@pytest.mark.parametrize('toolbox', ['mmdet', 'mmseg'])
def test_a_config_s_own_way_to_decode_is_kept(toolbox, images, checkpoints, tmp_path):
    """The inferencers ignore it when they get an array. Here the config decodes in gray, into three channels."""
    cfg = copy.deepcopy(read(CONFIGS[toolbox]))
    cfg.test_dataloader.dataset.pipeline[0].color_type = 'grayscale'
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='GrayInThree'))
    TRANSFORMS.register_module(name='GrayInThree', module=GrayInThree, force=True)
    cfg.dump(str(tmp_path / 'gray.py'))
    model = ImagePredictor(str(tmp_path / 'gray.py'), checkpoints[toolbox], 'cpu')
    gray = cv2.imread(str(images / 'one.png'), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tmp_path / 'gray.png'), np.dstack([gray] * 3))
    found, expected = model.predict(images / 'one.png', tmp_path, 0.05), predictor(toolbox, checkpoints).predict(
        tmp_path / 'gray.png', tmp_path, 0.05)
    key = 'detections' if toolbox == 'mmdet' else 'shares'
    assert found[key] == expected[key] and found[key]


def run_demo(monkeypatch, *args):
    import runpy
    monkeypatch.setattr(sys, 'argv', ['image_demo.py', *map(str, args)])
    runpy.run_path(str(ROOT / 'demo' / 'image_demo.py'), run_name='__main__')


def test_demo_writes_predictions_and_pictures(images, checkpoints, tmp_path, monkeypatch, capsys):
    run_demo(monkeypatch, images, ROOT / 'configs' / f'{CONFIGS["mmpretrain"]}.py', '--weights',
             checkpoints['mmpretrain'], '--out-dir', tmp_path / 'out', '--device', 'cpu')
    written = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert [Path(entry['file']).name for entry in written] == ['one.png', 'two.jpg']
    assert all(Path(entry['picture']).is_file() for entry in written)
    out = capsys.readouterr().out
    assert '2/2' in out and '2 images' in out


@pytest.mark.parametrize('args, message', [
    (('nowhere.png', 'pervit_nano_3e_fashion-mnist'), 'nowhere.png'),
    (('{images}', 'pervit_giant'), 'pervit_giant'),
    (('{images}', 'pervit_nano_fashion_mnist'), r'did you mean pervit_nano_fashion-mnist\?$'),
    (('{images}', 'configs/pervit_tinyy.py'), "'configs/pervit_tinyy.py' is not a file: give the path of a config"),
    (('{images}', '{images}/notes.txt'), "^demo/image_demo.py: config '.*notes.txt' cannot be read .*/yml"),
    (('{images}', '{images}/broken.py'), "^demo/image_demo.py: config '.*broken.py' cannot be read .Syntax"),
    (('{images}', 'pervit_nano_fashion-mnist', '--weights', 'none.pth'),
     r"^demo/image_demo.py: weights \(--weights\): 'none.pth' is not a file"),
    (('{images}', 'pervit_nano_fashion-mnist', '--weights', 'pervit_mm://none.pth'),
     r"^demo/image_demo.py: weights \(--weights\): 'pervit_mm://none.pth' is none of the checkpoints"),
    (('{images}', 'pervit_nano_fashion-mnist', '--device', 'cpu', '--score-thr', '30'),
     r'^demo/image_demo.py: score_thr \(--score-thr\) must be a number from 0 to 1, .* got 30.0$'),
    (('{images}', str(ROOT / 'configs' / 'pervit_tiny.py')), 'is a config, which has no weights'),
    (('{images}', 'pervit-small_3rdparty_in1k'), "'pervit-small_3rdparty_in1k' has no published weights: give weights"),
])
def test_demo_says_what_is_wrong(images, args, message, monkeypatch):
    with pytest.raises(SystemExit, match=message):
        run_demo(monkeypatch, *(arg.format(images=images) for arg in args))


def test_what_is_no_image_is_named_and_the_rest_is_done(images, checkpoints, tmp_path):
    (tmp_path / 'empty.png').touch()
    paths = [images / 'notes.txt', images / 'one.png', tmp_path / 'empty.png', images / 'two.jpg']
    model = predictor('mmpretrain', checkpoints)
    with pytest.raises(ValueError, match=f"^images: image '{paths[0]}' .*; image '{paths[2]}' .* done: 2,"):
        predict_images(model, paths, tmp_path / 'out')
    written = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert [entry['file'] for entry in written] == [str(paths[1]), str(paths[3])]
    with pytest.raises(ValueError, match='empty.png.* cannot be read'):
        model.predict(paths[2], tmp_path)


@pytest.mark.parametrize('score_thr', [-0.1, 1.01, float('nan'), '0.3', None])
def test_thresholds_are_from_0_to_1(score_thr, images, checkpoints, tmp_path):
    """They are checked before anything is written."""
    model = predictor('mmpretrain', checkpoints)
    for call in (model.predict, lambda image, *args: predict_images(model, [image], *args)):
        with pytest.raises(ValueError, match=f'must be a number from 0 to 1, as scores are, got {score_thr!r}$'):
            call(images / 'one.png', tmp_path / 'out', score_thr)
    assert not (tmp_path / 'out').exists()


def test_pictures_are_not_overwritten(images, checkpoints, tmp_path):
    with pytest.raises(ValueError, match="'one'"):
        predict_images(predictor('mmpretrain', checkpoints), [images / 'one.png', Path('other/one.png')], tmp_path)


@pytest.mark.parametrize('size, message', [
    ((20000, 10), 'has 20000 x 10 pixels, and its longer side may be at most 32 times the shorter one'),
    ((1, 400), 'has 1 x 400 pixels'), ((12000, 12000),
     r'is too large \(it has 12000 x 12000 pixels, and at most 100,000,000 are read\)'),
    ((33000, 33000), r'is too large \(.*1089000000 pixels.*at most 100,000,000 pixels are read\)')])
def test_images_that_would_fill_the_memory_are_named(tmp_path, size, message):
    """By the header alone: the last file has no pixels in it."""
    path = tmp_path / 'image.png'
    if size[0] == size[1]:
        chunks = (b'IHDR' + struct.pack('>IIBBBBB', *size, 8, 2, 0, 0, 0), b'IDAT' + zlib.compress(b''), b'IEND')
        path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(
            struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk)) for chunk in chunks))
    else:
        Image.new('RGB', size).save(path)
    with pytest.raises(UserError, match=message):
        check_image_size(path)


def test_small_images_are_enlarged_within_limits():
    for (height, width), scale in (((40, 56), 10), ((384, 20), 5), ((400, 400), 1), ((30, 900), 2)):
        assert enlarge(np.zeros((height, width, 3), np.uint8))[0].shape == (height * scale, width * scale, 3)
