"""model-index.yml and its metafiles follow OpenMMLab's rules, and every number in them is checked.

A number is counted again, read again from a log, or compared with one written here.
"""
import json
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.registry import DefaultScope

import pervit_mm
from pervit_mm.apis.flops import FlopCount
from pervit_mm.checkpoints import published
from pervit_mm.publishing.metafile import metafile_entry, read_log

ROOT = Path(__file__).parents[1]
IMPORTED = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
METAFILES = {name: yaml.safe_load((ROOT / name).read_text()) for name in IMPORTED}
ENTRIES = {entry['Name']: entry for content in METAFILES.values() for entry in content['Models']}
COLLECTIONS = [entry for content in METAFILES.values() for entry in content.get('Collections', [])]
FASHION_MNIST = ROOT / 'data' / 'fashion_mnist'
FASHION_SCENES = ROOT / 'data' / 'fashion_scenes'
#: Top-1 accuracy on ImageNet-1k at 224 px from the paper's table of comparison with the state of the art.
CITED = {'pervit-small_3rdparty_in1k': 82.1, 'pervit-medium_3rdparty_in1k': 82.9}
TASKS = {'mmpretrain': {'Image Classification', 'Self-Supervised Learning'},
         'mmdet': {'Object Detection', 'Instance Segmentation'}, 'mmseg': {'Semantic Segmentation'}}


def config_of(name):
    cfg = Config.fromfile(ROOT / ENTRIES[name]['Config'])
    if find_spec(cfg.default_scope) is None:
        pytest.skip(f'{cfg.default_scope} is not installed')
    return cfg


def is_converted(name):
    return '3rdparty' in name


def commands_of(command):
    """Words of a command. For ``make TARGET`` these are the words of the target's recipe."""
    words = command.split()
    if words[0] != 'make':
        return words
    recipe = re.search(rf'^{re.escape(words[1])}:.*\n((?:\t.*\n)+)', (ROOT / 'Makefile').read_text(), re.M)
    assert recipe is not None, f'the Makefile has no recipe for {words[1]}'
    return recipe[1].split()


def test_the_index_names_every_metafile():
    there = {str(path.relative_to(ROOT)) for path in (ROOT / 'configs').rglob('metafile.y*ml')}
    assert set(IMPORTED) == there and len(IMPORTED) == len(there)
    assert all(content['Models'] for content in METAFILES.values()), 'an empty list breaks readers of the index'
    names = [entry['Name'].lower() for content in METAFILES.values() for entry in content['Models']]
    assert len(names) == len(set(names)), "MMPretrain's hub goes by lower case"


def test_openmmlab_s_reader_has_no_complaint():
    load = pytest.importorskip('modelindex.load_model_index').load
    index = load(str(ROOT / 'model-index.yml'))
    # In OpenMMLab's files the path of the README starts at the top level, but the reader looks beside the metafile. The
    # test of the collection checks that path.
    assert [error for error in index.check(silent=True) if 'Path to README file' not in error] == []
    assert {model.name for model in index.models} == set(ENTRIES)


def test_the_collection_has_its_paper_readme_and_version():
    assert [collection['Name'] for collection in COLLECTIONS] == ['PerViT']
    paper = COLLECTIONS[0]['Paper']
    assert paper == dict(Title='Peripheral Vision Transformer', URL='https://arxiv.org/abs/2206.06801')
    assert (ROOT / COLLECTIONS[0]['README']).is_file() and (ROOT / COLLECTIONS[0]['Code']['URL']).is_file()
    assert re.fullmatch(r'v\d+\.\d+\.\d+', COLLECTIONS[0]['Code']['Version'])
    version, own = (tuple(map(int, text.split('.'))) for text in (COLLECTIONS[0]['Code']['Version'][1:],
                                                                  pervit_mm.__version__))
    assert version <= own


@pytest.mark.parametrize('name', ENTRIES)
def test_an_entry_has_the_fields_that_its_readers_need(name):
    entry = ENTRIES[name]
    known = {'Name', 'Metadata', 'In Collection', 'Results', 'Weights', 'Training log', 'Config', 'Converted From'}
    assert entry.keys() <= known and entry['In Collection'] == 'PerViT'
    path = ROOT / entry['Config']
    assert path.is_file() and path.parts[-2] != '_base_'
    for key in ('FLOPs', 'Parameters'):
        assert type(entry['Metadata'][key]) is int and entry['Metadata'][key] > 0
    cfg = Config.fromfile(path)
    for result in entry.get('Results', []):
        assert result.keys() == {'Dataset', 'Metrics', 'Task'} and result['Task'] in TASKS[cfg.default_scope]
        assert all(isinstance(value, float) and 0 < value < 100 for value in result['Metrics'].values())
    if is_converted(name):
        size = re.fullmatch('pervit-(tiny|small|medium)_3rdparty_in1k', name)[1]
        assert entry['Config'] == f'configs/pervit_{size}.py'
        assert entry['Converted From'] == dict(Code='https://github.com/juhongm999/pervit')
        assert 'Weights' not in entry, "the authors' files are not ours to give out"
    else:
        assert path.stem == name and 'Converted From' not in entry
        assert entry['Results'], 'a model with weights has been measured'
        file = entry['Weights'].removeprefix('pervit_mm://')
        digest = published.published_files()[file]
        assert re.fullmatch(rf'{re.escape(name)}_20\d{{6}}-{digest[:8]}\.pth', file)
        assert entry['Config'] in commands_of(entry['Metadata']['Training Command'])
        log = entry['Training log']
        assert (ROOT / log).is_file() and Path(log).parent == Path('checkpoints')


def test_weights_that_configs_name_are_published():
    names = {name for path in (ROOT / 'configs').rglob('*.py')
             for name in re.findall(r"pervit_mm://([^']+)'", path.read_text())}
    assert names and names <= published.published_files().keys()


@pytest.mark.parametrize('name', ENTRIES)
def test_flops_and_parameters_are_what_the_tool_prints(name, capsys):
    scope = config_of(name).default_scope
    tool = runpy.run_path(str(ROOT / 'tools' / 'analysis_tools' / 'get_flops.py'))
    tool['main']([str(ROOT / ENTRIES[name]['Config'])])
    shape, flops, params = capsys.readouterr().out.splitlines()[-3:]
    assert shape.endswith('up to the features' if scope == 'mmdet' else 'up to the logits')
    assert scope == 'mmpretrain' or '(3, 224, 224)' in shape, 'as the metafiles say'
    metadata = ENTRIES[name]['Metadata']
    assert re.fullmatch(r'FLOPs \(.*\): ([\d,]+) \(.* G\)', flops)[1] == f'{metadata["FLOPs"]:,}'
    assert params == f'Parameters as trained: {metadata["Parameters"]:,}'


@pytest.mark.parametrize('name', [name for name in ENTRIES if not is_converted(name)])
def test_results_are_the_last_of_the_log(name):
    entry = ENTRIES[name]
    _, measured = read_log([ROOT / entry['Training log']])
    text = metafile_entry(name, entry['Config'], '', None, FlopCount(0, 0, ''), measured, '')
    assert entry['Results'] == yaml.safe_load(text)[0]['Results']
    train_cfg = config_of(name).train_cfg
    # A result of tools/test.py, which has no step, may come last.
    lines = map(json.loads, (ROOT / entry['Training log']).read_text().splitlines())
    *_, last = (line['step'] for line in lines if 'step' in line)
    longer = re.search(r' train_cfg\.max_iters=(\d+)', entry['Metadata']['Training Command'])
    length = int(longer[1]) if longer else train_cfg.get('max_iters', train_cfg.get('max_epochs'))
    assert last == length, 'the config was changed since, and the command does not say so'


def test_the_paper_s_results_are_cited():
    """And no other results. For PerViT-T no independent source of its accuracy was at hand."""
    found = {name: entry['Results'] for name, entry in ENTRIES.items() if is_converted(name)}
    assert found.keys() > CITED.keys()
    assert found == {name: [dict(Dataset='ImageNet-1k', Task='Image Classification',
                                 Metrics={'Top 1 Accuracy': CITED[name]} if name in CITED else {})] for name in found}


@pytest.mark.filterwarnings('ignore:.*copy keyword', 'ignore:.*not writable')  # MMPretrain's data set, for each image
@pytest.mark.skipif(not (FASHION_MNIST / 't10k-images-idx3-ubyte').is_file(), reason='no Fashion-MNIST')
@pytest.mark.parametrize('name', [name for name, entry in ENTRIES.items() if name.endswith('_fashion-mnist')
                                  and entry['Results'][0]['Task'] == 'Image Classification'])
def test_accuracy_is_what_the_published_weights_have(name):
    """All 10,000 test images, through the config's pipeline."""
    mmpretrain = pytest.importorskip('mmpretrain')
    import pervit_mm.zoo  # noqa: F401
    model = mmpretrain.get_model(name, pretrained=True)
    dataset = model._config.test_dataloader.dataset
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        images = mmpretrain.registry.DATASETS.build({**dataset, 'data_root': str(FASHION_MNIST)})
    right = 0
    with torch.inference_mode():
        for start in range(0, len(images), 500):
            batch = default_collate([images[i] for i in range(start, start + 500)])
            labels = torch.cat([sample.gt_label for sample in batch['data_samples']])
            logits = model(model.data_preprocessor(batch, False)['inputs'])
            right += int((logits.argmax(1) == labels).sum())
    assert len(images) == 10000
    # On another machine the prediction of up to five images may differ.
    assert right / 100 == pytest.approx(ENTRIES[name]['Results'][0]['Metrics']['Top 1 Accuracy'], abs=0.05)


@pytest.mark.skipif(not (FASHION_SCENES / 'annotations' / 'test.json').is_file(), reason='no FashionScenes')
@pytest.mark.parametrize('name', [name for name in ENTRIES if name.endswith('_fashion-scenes')])
def test_dense_results_are_what_the_published_weights_have(name, tmp_path):
    """All 400 test scenes, by tools/test.py in one process. Training evaluated in two processes."""
    pytest.importorskip('mmcv._ext', reason="mmcv's compiled ops are not installed")
    config_of(name)
    entry = ENTRIES[name]
    metrics = tmp_path / 'metrics.json'
    subprocess.run(
        [sys.executable, 'tools/test.py', entry['Config'], entry['Weights'], '--work-dir', str(tmp_path),
         '--out-metrics', str(metrics)], cwd=ROOT, check=True, timeout=900)
    found = json.loads(metrics.read_text())
    keys = {'box AP': 'coco/bbox_mAP', 'box AP50': 'coco/bbox_mAP_50', 'mask AP': 'coco/segm_mAP',
            'mask AP50': 'coco/segm_mAP_50', 'mIoU': 'mIoU'}
    compared = 0
    for key, value in ((key, value) for result in entry['Results'] for key, value in result['Metrics'].items()):
        factor = 100 if key.startswith(('box', 'mask')) else 1
        assert factor * found[keys[key]] == pytest.approx(value, abs=0.15), key
        compared += 1
    assert compared == (4 if len(entry['Results']) == 2 else 1)
