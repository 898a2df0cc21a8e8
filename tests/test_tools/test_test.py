"""tools/test.py and the small tools as scripts, against a direct computation or the shell."""
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY_ARCH, randomize

from pervit_mm.datasets.image_folder import make_image_folder

pytest.importorskip('mmpretrain')

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'
SHELL_TOOLS = sorted(path.name for path in TOOLS.glob('*.sh'))
MEAN, STD = (120., 110., 100.), (60., 61., 62.)

CONFIG = '''
custom_imports = dict(imports=['pervit_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=3, mean={mean}, std={std}, to_rgb=True),
    backbone=dict(type='PerViT', arch={arch}, img_size=32),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=24, topk=(1, )))
test_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ImageNet', data_root={root!r}, split='val', classes={root!r} + '/classes.txt',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(32, 32)),
            dict(type='PackInputs')]))
test_evaluator = [
    dict(type='Accuracy', topk=(1, )),
    dict(type='SingleLabelMetric', items=('recall', ), average=None)]  # a number for each class
test_cfg = dict()
'''


def start(script, *args, cwd):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    return subprocess.Popen([sys.executable, str(TOOLS / script), *map(str, args)], cwd=cwd, env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process, code=0):
    out, err = process.communicate(timeout=200)
    assert process.returncode == code, (out + err)[-4000:]
    return out, err


def predict(model, files):
    """Class probabilities of image files, computed with OpenCV and the parts of the model."""
    images = [cv2.resize(cv2.imread(str(file)), (32, 32), interpolation=cv2.INTER_LINEAR)[..., ::-1] for file in files]
    pixels = (np.stack(images).astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    with torch.no_grad():
        features = model.backbone(torch.from_numpy(pixels).permute(0, 3, 1, 2))[-1]
        return model.head.fc(features).softmax(1)


def test_accuracy_is_that_of_the_model(tmp_path):
    """A checkpoint is evaluated on an image folder by the tool and by hand.

    A missing checkpoint and that of another model are errors.
    """
    from mmpretrain.registry import MODELS
    made = start('make_image_folder.py', tmp_path / 'data', '--classes', 3, '--train', 1, '--val', 6, '--size', 40, 50,
                 '--seed', 4, cwd=tmp_path)
    flops = start('analysis_tools/get_flops.py', ROOT / 'configs' / 'pervit_tiny.py', cwd=tmp_path)
    assert 'data: 3 classes, 1 training and 6 validation images each' in finish(made)[0]
    make_image_folder(str(tmp_path / 'same'), 3, 1, 6, size=(40, 50), seed=4)
    for file in (tmp_path / 'same').rglob('*.*'):
        assert (tmp_path / 'data' / file.relative_to(tmp_path / 'same')).read_bytes() == file.read_bytes()
    out, _ = finish(flops)
    assert '7,591,000' in out.splitlines()[-1] and out.splitlines()[-1].startswith('Parameters')
    assert re.search(r'^Input shape: \(3, 224, 224\), counted up to the \w+\nFLOPs .*: 1,7[45]\d,\d{3},\d{3} '
                     r'\(1\.75 G\)$', out, re.M), out[-500:]

    names = (tmp_path / 'data' / 'classes.txt').read_text().split()
    files = [file for name in names for file in sorted((tmp_path / 'data' / 'val' / name).iterdir())]
    labels = torch.arange(3).repeat_interleave(6)
    model = randomize(MODELS.build(dict(
        type='ImageClassifier', backbone=dict(type='PerViT', arch=TINY_ARCH, img_size=32),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=24)))).eval()
    with torch.no_grad():  # center the logits, or all images would get the same class
        probabilities = predict(model, files)
        model.head.fc.bias -= probabilities.log().mean(0)
    probabilities = predict(model, files)
    accuracy = (probabilities.argmax(1) == labels).float().mean().item() * 100
    assert len(set(probabilities.argmax(1).tolist())) == 3 and 0 < accuracy < 100, 'worth comparing'
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    (tmp_path / 'small.py').write_text(CONFIG.format(arch=TINY_ARCH, root=str(tmp_path / 'data'), mean=MEAN, std=STD))

    right = start('test.py', 'small.py', 'model.pth', '--out', 'all.pkl', '--out-metrics', 'metrics.json', cwd=tmp_path)
    wrong = start('test.py', 'small.py', 'modle.pth', cwd=tmp_path)
    # The backbone of a detector: all of it fits, and a random head would be tested.
    torch.save(dict(state_dict={key: value for key, value in model.state_dict().items() if 'head' not in key}),
               tmp_path / 'detector.pth')
    other = start('test.py', 'small.py', 'detector.pth', cwd=tmp_path)
    out, _ = finish(right)
    assert float(re.search(r'^top-1 accuracy in percent: (\S+)$', out, re.M)[1]) == pytest.approx(accuracy, rel=1e-3)
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics['accuracy/top1'] == pytest.approx(accuracy, rel=1e-5)
    recall = metrics['single-label/recall_classwise']  # rounded by MMPretrain; the classes have equal numbers of images
    assert len(recall) == 3 and np.mean(recall) == pytest.approx(accuracy, abs=0.01)
    assert f'single-label/recall_classwise: {recall}' in out.splitlines()
    samples = pickle.loads((tmp_path / 'all.pkl').read_bytes())
    assert [Path(sample['img_path']).name for sample in samples] == [file.name for file in files]
    torch.testing.assert_close(torch.stack([s['pred_score'] for s in samples]), probabilities, rtol=1e-4, atol=1e-5)

    out, err = finish(wrong, code=1)
    assert out == ''
    assert err == "tools/test.py: checkpoint: 'modle.pth' is not a file; give the path of a .pth checkpoint\n"
    out, err = finish(other, code=1)
    assert 'top-1' not in out
    assert err.splitlines()[-1].startswith("tools/test.py: 'detector.pth' holds the weights of another model: ")
    assert 'head.fc.weight is not in it' in err


@pytest.mark.parametrize('name', SHELL_TOOLS)
def test_shell_tools_parse(name):
    done = subprocess.run(['bash', '-n', str(TOOLS / name)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')


OPTIONS = ['--cfg-options', 'a.b=[1, 2]', 'c="x y"', '', '--amp']


def elastic(nodes, rank, processes, address, port):
    return ['-m', 'torch.distributed.run', f'--nnodes={nodes}', f'--node-rank={rank}',
            f'--nproc-per-node={processes}', f'--master-addr={address}', f'--master-port={port}']


@pytest.mark.parametrize('script, args, env, program, expected', [
    ('dist_train.sh', ['my config.py', '2', *OPTIONS], {}, 'python', [
        *elastic(1, 0, 2, '127.0.0.1', 29500), 'tools/train.py', 'my config.py', '--launcher', 'pytorch', *OPTIONS]),
    ('dist_train.sh', ['c.py', '8'],
     dict(NNODES='4', NODE_RANK='3', MASTER_ADDR='10.0.0.1', MASTER_PORT='1234', PYTHON='my-python'), 'my-python', [
         *elastic(4, 3, 8, '10.0.0.1', 1234), 'tools/train.py', 'c.py', '--launcher', 'pytorch']),
    ('dist_test.sh', ['c.py', 'a b.pth', '2', *OPTIONS], dict(PORT='29511'), 'python', [
        *elastic(1, 0, 2, '127.0.0.1', 29511), 'tools/test.py', 'c.py', 'a b.pth', '--launcher', 'pytorch', *OPTIONS]),
    ('slurm_train.sh', ['gpu', 'my job', 'c.py', *OPTIONS], dict(GPUS='4', SRUN_ARGS='--qos high'), 'srun', [
        '-p', 'gpu', '--job-name=my job', '--gres=gpu:4', '--ntasks=4', '--ntasks-per-node=4', '--cpus-per-task=10',
        '--kill-on-bad-exit=1', '--qos', 'high', 'python', '-u', 'tools/train.py', 'c.py', '--launcher', 'slurm',
        *OPTIONS]),
    ('slurm_train.sh', ['gpu', 'j', 'c.py', 'my dir', *OPTIONS], {}, 'srun', [
        '-p', 'gpu', '--job-name=j', '--gres=gpu:8', '--ntasks=8', '--ntasks-per-node=8', '--cpus-per-task=10',
        '--kill-on-bad-exit=1', 'python', '-u', 'tools/train.py', 'c.py', '--launcher', 'slurm', '--work-dir', 'my dir',
        *OPTIONS]),
    ('slurm_train.sh', ['gpu', 'j', 'c.py'], dict(GPUS='16', CPUS_PER_TASK='3'), 'srun', [
        '-p', 'gpu', '--job-name=j', '--gres=gpu:8', '--ntasks=16', '--ntasks-per-node=8', '--cpus-per-task=3',
        '--kill-on-bad-exit=1', 'python', '-u', 'tools/train.py', 'c.py', '--launcher', 'slurm']),
    ('slurm_test.sh', ['gpu', 'j', 'c.py', 'a b.pth', *OPTIONS], dict(GPUS='2'), 'srun', [
        '-p', 'gpu', '--job-name=j', '--gres=gpu:2', '--ntasks=2', '--ntasks-per-node=2', '--cpus-per-task=10',
        '--kill-on-bad-exit=1', 'python', '-u', 'tools/test.py', 'c.py', '--launcher', 'slurm', 'a b.pth', *OPTIONS]),
])
def test_shell_tools_forward_their_arguments(tmp_path, script, args, env, program, expected):
    """A stand-in program, found first in PATH, records its arguments. The tool returns its exit code."""
    stub = tmp_path / program
    stub.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > "$RECORD"\nexit 7\n')
    stub.chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if key not in (
        'NNODES', 'NODE_RANK', 'MASTER_ADDR', 'MASTER_PORT', 'PORT', 'PYTHON', 'GPUS', 'GPUS_PER_NODE', 'CPUS_PER_TASK',
        'SRUN_ARGS', 'PERVIT_SLURM_TOOL')}
    path = os.pathsep.join([str(tmp_path), os.environ['PATH']])
    done = subprocess.run(['bash', f'tools/{script}', *args], cwd=ROOT, capture_output=True, text=True,
                          env={**clean, **env, 'PATH': path, 'RECORD': str(tmp_path / 'argv')})
    assert done.returncode == 7, done.stderr
    assert (tmp_path / 'argv').read_bytes().decode().split('\0')[:-1] == expected


@pytest.mark.parametrize('name', SHELL_TOOLS)
def test_shell_tools_show_their_usage(name):
    """With one argument, which is too few, they print their usage without comment signs, and run nothing."""
    done = subprocess.run(['bash', f'tools/{name}', 'c.py'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert f'bash tools/{name} ' in done.stderr and '#' not in done.stderr
