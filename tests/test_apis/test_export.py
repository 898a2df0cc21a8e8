"""tools/export.py: the files compute the same in their own runtimes. Also MMPretrain's reparameterization tool."""
import configparser
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, DefaultScope

from pervit_mm.apis import export
from pervit_mm.checkpoints import published
from pervit_mm.models import PerViT

mmpretrain = pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'export.py'
NANO = ROOT / 'configs' / 'pervit_nano_fashion-mnist.py'
# A test replaces these two functions of torch and still needs them.
TRACE, SAVE = torch.export.export, torch.export.save

CLASSIFIER = f'''
default_scope = 'mmpretrain'
data_preprocessor = dict(mean=[120., 110., 100.], std=[60., 61., 62.], to_rgb=True)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='PerViT', arch={TINY_ARCH}, img_size=28),
    neck=None,
    head=dict(type='LinearClsHead', num_classes=3, in_channels=24))
test_dataloader = dict(dataset=dict(pipeline=[
    dict(type='ResizeEdge', scale=40), dict(type='CenterCrop', crop_size=(36, 28)), dict(type='PackInputs')]))
'''
BACKBONE = dict(arch=TINY_ARCH, img_size=28, out_type='featmap', out_indices=(0, 2), window_size='pretrain',
                global_attn_indexes=(1, ), stem_cfg=dict(norm_cfg=dict(type='SyncBN')))
# The other parts of the segmentor are not built, so they may name things that don't exist.
DENSE = f'''
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[1., 2., 3.], std=[4., 5., 6.], bgr_to_rgb=True),
    backbone=dict(type='PerViT', init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'), **{BACKBONE}),
    decode_head=dict(type='NoSuchHead'))
test_dataloader = dict(dataset=dict(type='RepeatDataset', dataset=dict(pipeline=[
    dict(type='Resize', scale=(64, 32), keep_ratio=True), dict(type='PackSegInputs')])))
'''


def build(path, **backbone):
    config = Config.fromfile(path).model
    config.backbone.update(backbone)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return randomize(MODELS.build(config)).eval()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a config and a checkpoint of a classifier and of a segmentor. Returns their models as trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'cls.py').write_text(CLASSIFIER)
    (tmp_path / 'seg.py').write_text(DENSE)
    classifier, backbone = build('cls.py'), randomize(PerViT(**BACKBONE)).eval()
    torch.save(dict(state_dict=classifier.state_dict(), meta=dict(epoch=1)), 'cls.pth')
    state = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    torch.save(dict(state_dict={**state, 'decode_head.conv.weight': torch.ones(1)}), 'seg.pth')
    return dict(cls=classifier, seg=backbone)


def run(*args):
    """The tool's main in this process."""
    runpy.run_path(str(TOOL))['main']([str(arg) for arg in args])


def load(path):
    """Load a file into its runtime: returns a function of images, the stored preprocessing, and the outputs' names."""
    if path.endswith('.pt2'):
        extra = {'preprocessing.json': ''}
        module = torch.export.load(path, extra_files=extra).module()
        return module, json.loads(extra['preprocessing.json']), None
    session = pytest.importorskip('onnxruntime').InferenceSession(path, providers=['CPUExecutionProvider'])
    text = session.get_modelmeta().custom_metadata_map['preprocessing']
    assert session.get_inputs()[0].name == 'images' and session.get_inputs()[0].shape[0] == 'batch'
    names = [output.name for output in session.get_outputs()]
    return (lambda images: [torch.from_numpy(x) for x in session.run(None, {'images': images.numpy()})],
            json.loads(text), names)


def check_output(out, beginning):
    """Check all that the tool prints. The difference must be that of rounding in float32, and not exactly 0."""
    difference = re.fullmatch(re.escape(beginning) + r'max abs difference to PyTorch: (\S+) \(at most 0.0001 is '
                              r'allowed\)\n', out)
    assert difference is not None, out
    assert 0 < float(difference[1]) < 2e-5


@pytest.fixture(params=['onnx', 'torch-export'])
def file_format(request):
    if request.param == 'onnx':
        for name in ('onnx', 'onnxscript', 'onnxruntime'):
            pytest.importorskip(name)
    return request.param


def test_an_exported_classifier_computes_the_same(files, file_format, capsys):
    """The image size is that of the test pipeline, which isn't square, and BatchNorm is folded."""
    path = f'cls{export.FORMATS[file_format]}'
    run('cls.py', 'cls.pth', '--format', file_format)
    check_output(capsys.readouterr().out, f'{path}: a batch of images (3, 28, 36) to logits (3,)\n'
                 'Images are to be normalized ahead of it: mean=[120.0, 110.0, 100.0], std=[60.0, 61.0, 62.0], '
                 'to_rgb=True\n')
    exported, preprocessing, names = load(path)
    assert preprocessing == dict(mean=[120., 110., 100.], std=[60., 61., 62.], to_rgb=True)
    assert names in (None, ['logits'])
    for batch in (1, 5):
        images = torch.randn(batch, 3, 28, 36)
        found = exported(images)
        logits = files['cls'](images, mode='tensor')
        torch.testing.assert_close(found[0] if isinstance(found, list) else found, logits, atol=1e-5, rtol=0)
    assert os.path.getsize(path) < 1e6 and str(ROOT).encode() not in Path(path).read_bytes()
    assert sorted(os.listdir()) == sorted(['cls.py', 'seg.py', 'cls.pth', 'seg.pth', path])


def test_a_published_classifier_is_exported_by_name(tmp_path, monkeypatch, capsys):
    """The checkpoint's sha256 is compared. The exported file goes into the current folder."""
    monkeypatch.chdir(tmp_path)
    name = next(name for name in published.published_files() if name.startswith(f'{NANO.stem}_'))
    run(NANO, f'pervit_mm://{name}', '--format', 'torch-export')
    path = f'{Path(name).stem}.pt2'
    assert os.listdir() == [path] and capsys.readouterr().out.startswith(
        f'{path}: a batch of images (1, 28, 28) to logits (10,)\n')
    model = build(NANO)
    model.load_state_dict(torch.load(ROOT / 'checkpoints' / name, weights_only=True)['state_dict'], strict=True)
    images = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(load(path)[0](images), model(images), atol=1e-4, rtol=0)
    for wrong in ('none.pth', f'../checkpoints/{name}'):
        with pytest.raises(SystemExit, match=f'^tools/export.py: pervit_mm://{wrong} is none of the checkpoints that '):
            run(NANO, f'pervit_mm://{wrong}', '--format', 'torch-export', '--force')
    assert os.listdir() == [path]


def test_an_exported_backbone_computes_the_same(files, file_format, capsys):
    """Two maps whose windows leave a strip over, and none of the segmentor's other parts."""
    path = f'maps{export.FORMATS[file_format]}'
    Path(path).write_text('old')
    run('seg.py', 'seg.pth', '--format', file_format, '--backbone-only', '--img-size', 38, 28, '--out', path, '--force')
    check_output(capsys.readouterr().out, f'{path}: a batch of images (3, 38, 28) to block0 (16, 10, 7), block2 '
                 '(24, 10, 7)\nImages are to be normalized ahead of it: mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], '
                 'to_rgb=True\n')
    exported, preprocessing, names = load(path)
    assert preprocessing['to_rgb'] is True and names in (None, ['block0', 'block2'])
    images = torch.randn(4, 3, 38, 28)
    for one, other in zip(exported(images), files['seg'](images), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_windowed_backbone_is_exported_for_any_size(files, file_format, capsys):
    """Whole windows, strips, and less than one window: sizes that the tool itself doesn't compare at."""
    backbone = randomize(PerViT(**{**BACKBONE, 'global_attn_indexes': ()})).eval()
    torch.save({f'backbone.{key}': value for key, value in backbone.state_dict().items()}, 'windowed.pth')
    run('seg.py', 'windowed.pth', '--format', file_format, '--backbone-only', '--img-size', 'any', '--cfg-options',
        'model.backbone.global_attn_indexes=[]')
    path = f'windowed{export.FORMATS[file_format]}'
    check_output(capsys.readouterr().out, f'{path}: a batch of images of any size, such as (3, 59, 33) to block0 '
                 '(16, 15, 9), block2 (24, 15, 9)\nImages are to be normalized ahead of it: mean=[1.0, 2.0, 3.0], '
                 'std=[4.0, 5.0, 6.0], to_rgb=True\n')
    exported = load(path)[0]
    for batch, size in ((1, (28, 28)), (2, (30, 84)), (1, (6, 21))):
        images = torch.randn(batch, 3, *size)
        for one, other in zip(exported(images), backbone(images), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    if file_format == 'onnx':
        from onnxruntime import InferenceSession
        assert InferenceSession(path).get_inputs()[0].shape == ['batch', 3, 'height', 'width']


def test_a_classifier_without_position_is_exported_for_any_size(files, capsys):
    model = build('cls.py', position_cfg=None)
    torch.save(model.state_dict(), 'free.pth')
    run('cls.py', 'free.pth', '--format', 'torch-export', '--img-size', 'any', '--cfg-options',
        'model.backbone.position_cfg=None')
    assert 'images of any size, such as (3, 59, 33) to logits (3,)' in capsys.readouterr().out
    images = torch.randn(2, 3, 12, 50)
    torch.testing.assert_close(load('free.pt2')[0](images), model(images), atol=1e-5, rtol=0)


@pytest.fixture(scope='module')
def program(tmp_path_factory):
    """The traced classifier, traced once for all cases."""
    path = tmp_path_factory.mktemp('traced') / 'cls.py'
    path.write_text(CLASSIFIER)
    file = path.with_suffix('.pt2')
    export.export_checked(export.ExportedModel(build(path)), file, 'torch-export', (28, 36), {})
    return torch.export.load(file)


def wrong_weight(program, path, value):
    weight = program.state_dict['model.head.fc.weight']
    right = weight[0, 0].clone()
    weight[0, 0] = value
    SAVE(program, path)
    weight[0, 0] = right


def one_batch(program, path):
    module = program.module()
    SAVE(TRACE(module, (torch.zeros(2, 3, 28, 36), )), path)


@pytest.mark.parametrize('file_format, write, message', [
    ('torch-export', lambda program, path: wrong_weight(program, path, 3.), r'max abs difference to PyTorch is [\d.]+, '
     "and 0.0001 is allowed: '.*out.pt2' is not written"),
    ('torch-export', lambda program, path: wrong_weight(program, path, float('nan')),
     'max abs difference to PyTorch is nan, and'),
    ('torch-export', one_batch, r'the exported file does not run on a batch of 1 \(\w+: '),
    ('onnx', lambda program, path: path.write_bytes(b'-'), r'the exported file does not run on a batch of 1 \(\w+: '),
])
def test_a_broken_file_is_not_kept(files, program, monkeypatch, file_format, write, message):
    if file_format == 'onnx':
        pytest.importorskip('onnxruntime')
        monkeypatch.setattr(export, 'check_packages', lambda file_format: None)
    model = SimpleNamespace(metadata_props={}, graph=[])
    converted = SimpleNamespace(model=model, save=lambda path: write(program, path))
    monkeypatch.setattr(torch.export, 'export', lambda *args, **kwargs: program)
    monkeypatch.setattr(torch.export, 'save', lambda program, path, **kwargs: write(program, path))
    monkeypatch.setattr(torch.onnx, 'export', lambda *args, **kwargs: converted)
    before = sorted(os.listdir())
    with pytest.raises(SystemExit, match=f'^tools/export.py: {message}') as stop:
        run('cls.py', 'cls.pth', '--format', file_format, '--out', f'out{export.FORMATS[file_format]}')
    assert isinstance(stop.value.code, str) and '\n' not in stop.value.code, 'which Python prints, with exit code 1'
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize('args, message', [
    ('cls.py none.pth', "path: 'none.pth' is not a file; give the path of a checkpoint"),
    ('none.py cls.pth', "config 'none.py' is not a file"),
    ('cls.py seg.pth', "checkpoint 'seg.pth' is not of this config: head.fc.weight is not in it; head.fc.bias is not "
     'in it; decode_head.conv.weight is not in the config; backbone.norm0.weight is not in the config and 1 more'),
    ('cls.py cls.pth --cfg-options model.head.num_classes=4',
     r"checkpoint 'cls.pth' is not of this config: head.fc.weight is \(3, 24\) there and \(4, 24\) in the config"),
    ('cls.py cls.pth --cfg-options model.backbone.embed_dim=4', '.*embed_dim'),
    ('cls.py cls.pth --cfg-options model.backbone.type=VisionTransformer model.backbone.arch=deit-t '
     'model.backbone.img_size=32', "model.backbone must be a PerViT, got 'VisionTransformer'"),
    ('cls.py cls.pth --cfg-options model.backbone.type=NoSuch', 'the model of the config cannot be built: .*NoSuch'),
    ('cls.py cls.pth --cfg-options model.head=None',
     "checkpoint 'cls.pth' is not of this config: head.fc.weight is not in the config"),
    ('cls.py cls.pth --out out.onnx', 'path must end in .pt2 for torch-export'),
    ('cls.py cls.pth --out seg.py', "'seg.py' exists already; give another path, or --force"),
    ('seg.py seg.pth', "the config's default_scope is 'mmseg', and only classifiers of 'mmpretrain' are exported as a "
     'whole: give --backbone-only'),
    ('seg.py seg.pth --backbone-only', 'the test pipeline of the config brings images of several sizes: give '
     '--img-size H W, or --img-size any'),
    ('seg.py seg.pth --backbone-only --img-size any', 'any image size: blocks 1 of 3 attend over the whole map, and a '
     'file holds their Φp for one map: give --img-size H W and export a file for each size'),
])
def test_mistakes_are_named(files, args, message):
    before = sorted(os.listdir())
    with pytest.raises(SystemExit, match=f'^tools/export.py: {message}') as stop:
        run(*args.split(), '--format', 'torch-export')
    assert '\n' not in stop.value.code and sorted(os.listdir()) == before


def test_a_classifier_without_logits_is_refused(files):
    state = {key: value for key, value in files['cls'].state_dict().items() if key.startswith('backbone.')}
    torch.save(state, 'backbone.pth')
    with pytest.raises(SystemExit, match='^tools/export.py: model.head must return one tensor, the logits, got tuple: '
                       'give --backbone-only$'):
        run('cls.py', 'backbone.pth', '--format', 'torch-export', '--cfg-options', 'model.head=None')


def test_missing_packages_are_named(files, monkeypatch, capsys):
    monkeypatch.setattr(export, 'find_spec', lambda name: None if name == 'onnxscript' else name)
    with pytest.raises(SystemExit, match="--format onnx needs onnxscript, not installed here: pip install "
                       r"'pervit_mm\[export\]'"):
        run('cls.py', 'cls.pth')
    for size in ((1, 2, 3), (0, ), (1, 'any')):
        with pytest.raises(SystemExit):
            run('cls.py', 'cls.pth', '--img-size', *size)
        assert "--img-size takes one positive number or two, height and width, or 'any'" in capsys.readouterr().err


def test_the_extra_has_the_tested_versions():
    """The extra ``export`` of setup.cfg and constraints.txt name the same versions."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    pinned = setup['options.extras_require']['export'].split('\n')[1:]
    assert len(pinned) == 4 and set(pinned) <= set((ROOT / 'constraints.txt').read_text().split('\n'))


def test_mmpretrain_s_reparameterization_keeps_the_outputs(tmp_path):
    """MMPretrain's tool takes a checkpoint with all that a runner writes. Our tool runs as a script beside it."""
    model = build(NANO)
    hub = MessageHub('reparameterization')
    hub.update_scalar('train/loss', 0.5)
    torch.save(dict(state_dict=model.state_dict(), meta={}, message_hub=hub.state_dict()), tmp_path / 'nano.pth')
    tool = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'model_converters' / 'reparameterize_model.py'
    if not tool.is_file():
        pytest.skip('this MMPretrain comes without its tools')
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    processes = [
        subprocess.Popen([sys.executable, *map(str, args)], cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
        for args in ((tool, NANO, 'nano.pth', 'deployed.pth'), (TOOL, NANO, 'none.pth', '--format', 'torch-export'))]
    (out, err), (ours, our_err) = (process.communicate(timeout=200) for process in processes)
    assert processes[0].returncode == 0 and 'Done!' in out, err
    assert (processes[1].returncode, ours, our_err) == (
        1, '', "tools/export.py: path: 'none.pth' is not a file; give the path of a checkpoint\n")
    state = torch.load(tmp_path / 'deployed.pth', weights_only=True)['state_dict']
    assert not any('position.conv1' in key or 'running_mean' in key for key in state)
    images = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        expected = model(images)
        model = build(NANO)
        model.backbone.switch_to_deploy()
        for parameter in model.parameters():
            parameter.zero_()
        model.load_state_dict(state, strict=True)
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)
