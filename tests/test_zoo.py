"""MMPretrain's hub and inferencers, by name, with the published weights."""
import importlib
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import DefaultScope

mmpretrain = pytest.importorskip('mmpretrain')
import pervit_mm.zoo  # noqa: E402
from pervit_mm.checkpoints import official  # noqa: E402
from pervit_mm.checkpoints import published as published_module  # noqa: E402
from pervit_mm.publishing import publish  # noqa: E402
from pervit_mm.utils.errors import UserError  # noqa: E402

ROOT = Path(__file__).parents[1]
MODELS = yaml.safe_load((ROOT / 'configs' / 'metafile.yml').read_text())['Models']
NAMES = [model['Name'] for model in MODELS]
NANO = 'pervit_nano_fashion-mnist'
CLASSES = ('T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot')

# One process imports the toolbox; each case runs in a fork of it, which has never seen pervit_mm.
SCRIPT = '''
import os
import sys

import mmengine.runner
import torch


def nothing_heavy():
    import pervit_mm
    assert not {'mmpretrain', 'mmdet', 'mmseg', 'pervit_mm.zoo'} & set(sys.modules)
    mmengine.runner.CheckpointLoader._schemes['pervit_mm://']


def zoo_without_mmpretrain():
    sys.modules['mmpretrain'] = None
    from pervit_mm import zoo
    assert zoo.from_official and zoo.to_official
    try:
        zoo.register_models()
    except ImportError as error:
        assert "mmpretrain isn't installed: pip install mmpretrain" in str(error), error
    else:
        raise AssertionError('register_models says nothing')


def names():
    from mmpretrain import list_models
    return [list_models('pervit*'), len(list_models())]


def zoo_first():
    import pervit_mm.zoo
    expected = names()
    assert sorted(sys.argv[1:]) == expected[0], expected


def zoo_last():
    before = names()
    assert before[0] == []
    import pervit_mm.zoo
    assert names() == [sorted(sys.argv[1:]), before[1] + len(sys.argv) - 1], names()


for case in (nothing_heavy, zoo_without_mmpretrain, zoo_first, zoo_last):
    if case is zoo_first:
        import mmpretrain
    child = os.fork()
    if child == 0:
        status = 1
        try:
            case()
            status = 0
        finally:
            sys.stdout.flush()
            if status:
                import traceback
                traceback.print_exc()
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0, case.__name__
'''


@pytest.fixture(scope='module')
def classifier():
    return mmpretrain.get_model(NANO, pretrained=True)


@pytest.fixture(scope='module')
def inferencer():
    return mmpretrain.ImageClassificationInferencer(NANO)


def item():
    """A gray image of 28 x 28: something like trousers, bright on black."""
    image = np.zeros((28, 28), np.uint8)
    image[2:26, 8:13] = image[2:26, 16:21] = 180
    image[2:8, 8:21] = 220
    return image


def test_the_zoo_works_in_any_order_of_imports():
    done = subprocess.run([sys.executable, '-c', SCRIPT, *[name.lower() for name in NAMES]], cwd='/', text=True,
                          env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}, capture_output=True,
                          timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def test_names_are_registered_once():
    assert mmpretrain.list_models('pervit*') == sorted(NAMES)
    assert mmpretrain.ImageClassificationInferencer.list_models('pervit*') == sorted(NAMES)
    assert pervit_mm.zoo.register_models() == NAMES
    importlib.reload(pervit_mm.zoo)
    assert mmpretrain.list_models('pervit*') == sorted(NAMES)
    assert pervit_mm.zoo.from_official is official.from_official
    assert pervit_mm.zoo.to_official is official.to_official


def test_a_name_of_another_package_is_refused(monkeypatch):
    monkeypatch.setattr(mmpretrain.ModelHub, '_models_dict', {NANO: None})
    with pytest.raises(ValueError, match=f"^{NANO} is in MMPretrain's hub already, from another package"):
        pervit_mm.zoo.register_models()
    assert list(mmpretrain.ModelHub._models_dict) == [NANO], 'none of the others was registered'


def test_get_model_loads_the_published_weights(classifier):
    entry = next(model for model in MODELS if model['Name'] == NANO)
    file = entry['Weights'].removeprefix('pervit_mm://')
    published = torch.load(ROOT / 'checkpoints' / file, weights_only=True)['state_dict']
    own = classifier.state_dict()
    assert own.keys() == published.keys() and all(torch.equal(own[key], published[key]) for key in own)
    assert not classifier.training and classifier._dataset_meta == dict(classes=CLASSES)
    assert classifier._metainfo.config.filename == str(ROOT / 'configs' / f'{NANO}.py')
    expected = np.load(ROOT / 'tests' / 'data' / 'published' / f'{NANO}.npz')[file]
    outputs = publish.recorded_outputs(classifier, classifier._config)
    np.testing.assert_allclose(outputs, expected, atol=1e-5, rtol=1e-5)


def test_a_damaged_file_is_an_error(tmp_path, monkeypatch):
    """MMEngine's own loader would take it, with wrong weights."""
    for name in ('configs', 'checkpoints'):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / 'checkpoints').unlink()
    (tmp_path / 'checkpoints').mkdir()
    for path in (ROOT / 'checkpoints').iterdir():
        content = path.read_bytes()
        if path.suffix == '.pth':
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:]
        (tmp_path / 'checkpoints' / path.name).write_bytes(content)
    monkeypatch.setattr(published_module, 'package_root', lambda: tmp_path)
    with pytest.raises(ValueError, match='is not what was published and was not loaded: its sha256 is'):
        mmpretrain.get_model(NANO, pretrained=True)


def test_the_three_ways_agree(classifier, inferencer, tmp_path):
    cv2.imwrite(str(tmp_path / 'item.png'), item())
    with torch.no_grad():
        logits = classifier((torch.from_numpy(item())[None, None].float() - 72.94) / 90.02)
    scores = logits.softmax(1)[0].numpy()
    result = inferencer(str(tmp_path / 'item.png'))[0]
    np.testing.assert_allclose(result['pred_scores'], scores, atol=1e-5)
    assert result['pred_class'] == CLASSES[scores.argmax()]
    by_name = mmpretrain.inference_model(NANO, str(tmp_path / 'item.png'))
    by_model = mmpretrain.inference_model(classifier, item())
    assert by_name['pred_class'] == by_model['pred_class'] == result['pred_class']
    np.testing.assert_allclose(by_name['pred_scores'], by_model['pred_scores'], atol=1e-6)
    feature = mmpretrain.FeatureExtractor(NANO, pretrained=True)(str(tmp_path / 'item.png'))[0][0]
    assert feature.shape == (96, )
    with torch.no_grad():
        torch.testing.assert_close(classifier.head.fc(feature), logits[0], atol=1e-5, rtol=1e-5)


def test_images_of_any_size_and_color_are_taken(inferencer, tmp_path):
    """Color becomes gray by the config's weights, and a pixel is the mean over its area. Both are computed by hand."""
    gray = item().astype(int)
    same = [item(), np.dstack([item()] * 3), np.kron(item(), np.ones((5, 5), np.uint8)),
            np.kron(np.dstack([item()] * 3), np.ones((3, 2, 1), np.uint8))]
    scores = [inferencer(image)[0]['pred_scores'] for image in same]
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], atol=1e-6)
    image = np.random.default_rng(0).integers(0, 256, (56, 84, 3))
    cv2.imwrite(str(tmp_path / 'noise.png'), image.astype(np.uint8))
    gray = (image @ [2, 9, 5]) // 16
    small = np.rint(gray.reshape(28, 2, 28, 3).mean((1, 3)))
    results = [inferencer(x)[0]['pred_scores'] for x in (str(tmp_path / 'noise.png'), small.astype(np.uint8))]
    np.testing.assert_allclose(results[0], results[1], atol=2e-3)  # OpenCV rounds halves its own way
    assert np.abs(results[0] - scores[0]).max() > 0.05
    batch = inferencer([str(tmp_path / 'noise.png'), item()], batch_size=2)
    np.testing.assert_allclose([x['pred_scores'] for x in batch], [results[0], scores[0]], atol=1e-5)


@pytest.mark.parametrize('name', ['pervit_nano_fashion-mnist', 'pervit_nano_42px_fashion-mnist',
                                  'pervit_nano_56px_fashion-mnist', 'vit_nano_3e_fashion-mnist'])
def test_the_data_set_s_own_images_pass_unchanged(name):
    from mmpretrain.registry import TRANSFORMS
    pipeline = Config.fromfile(ROOT / 'configs' / f'{name}.py').test_dataloader.dataset.pipeline
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        steps = [TRANSFORMS.build(step) for step in pipeline]
    image = np.random.default_rng(1).integers(0, 256, (28, 28)).astype(np.uint8)
    results = dict(img=image.copy(), gt_label=3)
    for step in steps:
        results = step(results)
    side = next((int(size) for size in (42, 56) if f'{size}px' in name), 28)
    expected = image if side == 28 else cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    assert torch.equal(results['inputs'], torch.from_numpy(expected)[None])


def test_no_model_of_another_toolbox_is_registered():
    """Of the models of all metafiles, only MMPretrain's classifiers are in its hub, and no pre-trainings."""
    configs = {model['Name']: Config.fromfile(ROOT / model['Config']) for model in published_module.index_entries()}
    assert {name for name, cfg in configs.items()
            if cfg.default_scope == 'mmpretrain' and cfg.model.type == 'ImageClassifier'} == set(NAMES) < set(configs)


def test_a_name_without_weights_does_not_predict_with_random_ones(tmp_path):
    """It builds, and takes a file."""
    name = 'pervit-tiny_3rdparty_in1k'
    for load in (partial(mmpretrain.get_model, pretrained=True), mmpretrain.FeatureExtractor,
                 partial(mmpretrain.inference_model, img=np.zeros((40, 50, 3), np.uint8))):
        with pytest.raises(UserError, match=f'{name} has no weights here, .*tools/model_converters/pervit_to_mm.py'):
            load(name)
    model = mmpretrain.get_model(name)
    assert sum(p.numel() for p in model.parameters()) == 7591000
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'tiny.pth')
    again = mmpretrain.get_model(name, pretrained=str(tmp_path / 'tiny.pth'))
    assert torch.equal(again.head.fc.weight, model.head.fc.weight)
