"""The wheel: what it carries, and that the whole model zoo works from it without a clone."""
import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import official_state

ROOT = Path(__file__).parents[1]
# The build needs nothing else of a clone.
SOURCES = ('pervit_mm', 'configs', 'tools', 'checkpoints', 'demo', 'setup.py', 'setup.cfg', 'pyproject.toml',
           'MANIFEST.in', 'README.md', 'LICENSE', 'CHANGELOG.md', 'CITATION.cff', 'model-index.yml')
CARRIED = ('configs', 'tools', 'checkpoints', 'demo')
NANO = 'pervit_nano_fashion-mnist'

# This script runs in the new environment, in an empty folder and without network.
SCRIPT = '''
import json
import socket
import sys


def refuse(*args, **kwargs):
    raise OSError('this must work offline')


socket.socket.connect = socket.getaddrinfo = refuse

import cv2
import numpy as np
import pervit_mm.zoo
from mmpretrain import FeatureExtractor, ImageClassificationInferencer, get_model, inference_model, list_models
from pervit_mm.checkpoints import package_root
from pervit_mm.publishing.publish import recorded_outputs

NANO = sys.argv[1]
image = np.zeros((56, 42, 3), np.uint8)
image[6:50, 4:38] = (90, 200, 160)
cv2.imwrite('item.png', image)
model = get_model(NANO, pretrained=True)
result = ImageClassificationInferencer(NANO)('item.png')[0]
print(json.dumps(dict(
    package=pervit_mm.__file__,
    root=str(package_root()),
    path=sys.path,
    names=list_models('pervit*'),
    outputs=recorded_outputs(model, model._config).tolist(),
    classes=[result['pred_class'], inference_model(NANO, 'item.png')['pred_class'],
             model._dataset_meta['classes'][int(result['pred_label'])]],
    feature=list(FeatureExtractor(NANO, pretrained=True)('item.png')[0][0].shape))))
'''


def run(*command, **options):
    """Run a command that must succeed, and return what it printed."""
    env = {key: value for key, value in os.environ.items() if key not in ('PYTHONPATH', 'PYTHONHOME')}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=900,
                          env={**env, 'OMP_NUM_THREADS': '1', 'PIP_NO_INDEX': '1'}, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def pip_wheel(source, target):
    run(sys.executable, '-m', 'pip', 'wheel', source, '--no-deps', '--no-build-isolation', '-q', '-w', target)
    return next(Path(target).glob('*.whl'))


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    """A copy of the clone. The clone gets no build folder from the tests, and its own build folder has no effect."""
    if find_spec('setuptools') is None or find_spec('pip') is None:
        pytest.skip('setuptools or pip is not installed')
    folder = tmp_path_factory.mktemp('sources')
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__', '.*'))
        elif (ROOT / name).is_file():
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope='module')
def wheel(sources, tmp_path_factory):
    """Built from sources with leftovers of an earlier build, Python and an editor, and with a too large checkpoint."""
    stale = sources / 'build' / 'lib' / 'pervit_mm' / '.mim' / 'configs' / 'gone.py'
    stale.parent.mkdir(parents=True)
    for path in (stale, sources / 'tools' / '.train.py.swp', sources / 'configs' / 'x.pyc'):
        path.touch()
    large = sources / 'checkpoints' / 'large.pth'
    with large.open('wb') as file:
        file.truncate(10_000_001)
    before = sorted(path for path in (sources / 'pervit_mm').rglob('*'))
    wheel = pip_wheel(sources, tmp_path_factory.mktemp('wheel'))
    assert sorted(path for path in (sources / 'pervit_mm').rglob('*')) == before, 'nothing is copied into the package'
    for path in (sources / 'tools' / '.train.py.swp', sources / 'configs' / 'x.pyc', large):
        path.unlink()
    return wheel


def test_the_wheel_carries_all_that_it_should_and_no_leftovers(wheel):
    found = contents(wheel)
    expected = {'README.md', 'model-index.yml'}
    for folder in CARRIED:
        expected |= {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob('*')
                     if path.is_file() and path.suffix != '.pyc'}
    assert {name for name in found if '/.mim/' in name} == {f'pervit_mm/.mim/{name}' for name in expected}
    index = yaml.safe_load(found['pervit_mm/.mim/model-index.yml'])
    for name in index['Import']:
        for entry in yaml.safe_load(found[f'pervit_mm/.mim/{name}'])['Models']:
            assert f'pervit_mm/.mim/{entry["Config"]}' in found
            if 'Weights' in entry:
                assert f'pervit_mm/.mim/checkpoints/{entry["Weights"].removeprefix("pervit_mm://")}' in found
    assert not [name for name in found if name.startswith(('tests', 'build')) or 'zoo/' in name]
    assert len(wheel.read_bytes()) < 60e6


def test_a_source_distribution_builds_the_same(sources, wheel, tmp_path):
    """An editable installation has no copies, because it uses the clone's files, and mim finds them by links."""
    script = 'import sys; from setuptools import build_meta; _, sdist, editable = sys.argv; ' \
        'build_meta.build_sdist(sdist); build_meta.build_editable(editable)'
    for name in ('sdist', 'editable', 'wheel'):
        (tmp_path / name).mkdir()
    run(sys.executable, '-c', script, tmp_path / 'sdist', tmp_path / 'editable', cwd=sources)
    again = contents(pip_wheel(next((tmp_path / 'sdist').glob('*.tar.gz')), tmp_path / 'wheel'))
    first = contents(wheel)
    assert again.keys() == first.keys()
    assert [name for name in first if first[name] != again[name] and not name.endswith('/RECORD')] == []
    editable = contents(next((tmp_path / 'editable').glob('*.whl')))
    assert not [name for name in editable if '.mim' in name]
    # mim joins the folder of the metadata with this line, and looks into .mim of the result.
    place, name = next(editable[name] for name in editable if name.endswith('/top_level.txt')).decode().split()
    mim = Path('/site-packages').joinpath(place, '.mim')
    assert name == 'pervit_mm' and {path.name for path in mim.iterdir()} == {'configs', 'tools', 'demo'}
    assert all(path.is_symlink() and path.resolve() == (sources / path.name).resolve() for path in mim.iterdir())
    assert (mim / 'tools' / 'train.py').is_file()


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
    """Interpreter of an environment that has the wheel and all packages of this environment except pervit_mm."""
    if find_spec('mmpretrain') is None:
        pytest.skip('mmpretrain is not installed')
    folder = tmp_path_factory.mktemp('environment')
    links = folder / 'links'
    links.mkdir()
    for place in sys.path:
        if Path(place).name in ('site-packages', 'dist-packages'):
            for path in Path(place).iterdir():
                if 'pervit_mm' not in path.name and not (links / path.name).exists():
                    (links / path.name).symlink_to(path)
    run(sys.executable, '-m', 'venv', '--without-pip', folder / 'venv')
    python = folder / 'venv' / 'bin' / 'python'
    purelib = Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').strip())
    (purelib / 'links.pth').write_text(f'{links}\n')
    run(python, '-m', 'pip', 'install', '--no-deps', '-q', '--disable-pip-version-check', wheel)
    return python


def test_everything_works_from_the_wheel(python, tmp_path):
    found = json.loads(run(python, '-c', SCRIPT, NANO, cwd=tmp_path).splitlines()[-1])
    environment = python.parents[1].resolve()
    assert environment in Path(found['package']).resolve().parents
    assert Path(found['root']) == Path(found['package']).parent / '.mim'
    assert str(ROOT) not in found['path']
    index = yaml.safe_load((ROOT / 'configs' / 'metafile.yml').read_text())['Models']
    assert found['names'] == sorted(entry['Name'] for entry in index)
    file = next(entry['Weights'] for entry in index if entry['Name'] == NANO).removeprefix('pervit_mm://')
    record = np.load(ROOT / 'tests' / 'data' / 'published' / f'{NANO}.npz')[file]
    np.testing.assert_allclose(found['outputs'], record, atol=1e-5, rtol=1e-5)
    assert len(set(found['classes'])) == 1 and found['feature'] == [96]
    assert sorted(os.listdir(tmp_path)) == ['item.png']


def test_the_wheel_s_tools_work_from_an_empty_folder(python, tmp_path):
    """The demo with every published model, the converters in both directions, and an export by name."""
    where = 'from pervit_mm.checkpoints import package_root; print(package_root())'
    root = Path(run(python, '-c', where, cwd=tmp_path).splitlines()[-1])
    shots = tmp_path / 'shots'
    shots.mkdir()
    cv2.imwrite(str(shots / 'a.png'), np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8))
    toolboxes, shown = dict(configs='mmpretrain', detection='mmdet', segmentation='mmseg'), []
    for name in yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']:
        for entry in yaml.safe_load((ROOT / name).read_text())['Models']:
            if Path(name).parent.name == 'selfsup':  # pre-trainings predict nothing
                continue
            if 'Weights' in entry and find_spec(toolboxes[Path(name).parent.name]):
                run(python, root / 'demo' / 'image_demo.py', 'shots', entry['Name'], '--out-dir', entry['Name'],
                    '--device', 'cpu', cwd=tmp_path)
                predictions = json.loads((tmp_path / entry['Name'] / 'predictions.json').read_text())
                assert len(predictions) == 1 and (tmp_path / entry['Name'] / 'vis' / 'a.png').is_file()
                shown.append(entry['Name'])
    assert NANO in shown
    state = official_state('tiny')
    torch.save(dict(model=state), tmp_path / 'official.pth')
    converters = root / 'tools' / 'model_converters'
    run(python, converters / 'pervit_to_mm.py', 'official.pth', 'ours.pth', cwd=tmp_path)
    run(python, converters / 'mm_to_pervit.py', 'ours.pth', 'back.pth', cwd=tmp_path)
    back = torch.load(tmp_path / 'back.pth', weights_only=True)['model']
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)
    metafile = yaml.safe_load((ROOT / 'configs' / 'metafile.yml').read_text())['Models']
    weights = next(entry['Weights'] for entry in metafile if entry['Name'] == NANO)
    run(python, root / 'tools' / 'export.py', root / 'configs' / f'{NANO}.py', weights, '--format', 'torch-export',
        cwd=tmp_path)
    program = torch.export.load(tmp_path / f'{Path(weights).stem}.pt2').module()
    assert program(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
