"""tools/train.py from end to end, in real processes on a small folder of real JPEG files."""
import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from small_run import ROOT, write_world

pytest.importorskip('mmpretrain')

TRAIN = ROOT / 'tools' / 'train.py'

# A config without random steps and without BatchNorm. With it, two processes with half the images each do the same as
# one process with all images. BatchNorm would take its statistics from each process's own images.
IN_STEP = '''
_base_ = {base!r}
model = dict(
    backbone=dict(stem_cfg=dict(type='patchify'), drop_path_rate=0.),
    train_cfg=None)
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=_base_.test_pipeline))
param_scheduler = []
'''


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A folder with data, configs and the recorder."""
    root = write_world(tmp_path_factory.mktemp('world'))
    (root / 'in_step.py').write_text(IN_STEP.format(base=str(root / 'small.py')))
    return root


def start(world, *args, launcher=(), **env):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': f'{ROOT}{os.pathsep}{world}', **env}
    return subprocess.Popen([sys.executable, *launcher, str(TRAIN), *map(str, args)], env=env,
                            cwd=world, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process, code=0):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == code, out[-4000:]
    return out


def losses(folder, rank=0):
    lines = (folder / f'losses_{rank}.jsonl').read_text().splitlines()
    return [tuple(json.loads(line)) for line in lines]


def test_a_killed_run_resumes_with_the_losses_of_the_undisturbed_one(world):
    """An undisturbed run and a killed one run side by side. The killed one resumes from its last epoch."""
    options = ('--work-dir', world / 'killed', '--amp', '--cfg-options', 'default_hooks.logger.interval=1')
    killed = start(world, 'small.py', *options, KILL_AT='9')
    whole = finish(start(world, 'small.py', '--amp', '--cfg-options', 'default_hooks.logger.interval=1'))
    finish(killed, -signal.SIGKILL)

    # 24 images in batches of 4 make epochs of 6 iterations. Iteration 9 is within the second epoch.
    assert [i for i, _ in losses(world / 'killed')] == list(range(9))
    assert (world / 'killed' / 'last_checkpoint').read_text().endswith('epoch_1.pth')

    work_dir = world / 'work_dirs' / 'small'  # the config's stem
    assert [i for i, _ in losses(work_dir)] == list(range(12))
    assert whole.count('AmpOptimWrapper needs one') == 1, 'said, and said once'
    assert re.search(r'^top-1 accuracy in percent: [\d.]+$', whole, re.M), whole[-500:]
    assert re.search(r'^checkpoint: .*epoch_2\.pth$', whole, re.M), whole[-500:]
    assert 'eta: ' in whole

    resumed = finish(start(world, 'small.py', '--resume', *options))
    assert 'epoch_1.pth' in resumed
    after = losses(world / 'killed')[9:]
    assert [i for i, _ in after] == list(range(6, 12))
    for (_, there), (i, here) in zip(losses(work_dir)[6:], after):
        assert here == pytest.approx(there, rel=1e-5), f'iteration {i}'
    ours, theirs = (torch.load(folder / 'parameters_0.pth') for folder in
                    (world / 'killed', work_dir))
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, msg=key)


def test_two_processes_train_in_step(world):
    """Two processes over gloo against one process with the joint batch."""
    torchrun = ('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2')
    double = start(world, 'in_step.py', '--work-dir', world / 'double', '--launcher', 'pytorch',
                   launcher=torchrun)
    single = start(world, 'in_step.py', '--work-dir', world / 'single', '--no-validate',
                   '--cfg-options', 'train_dataloader.batch_size=8')
    out = finish(double)
    assert 'talk through gloo' in out
    assert out.count('top-1 accuracy') == 1, 'one process speaks for both'
    finish(single)

    first, second, one = (torch.load(path) for path in (
        world / 'double' / 'parameters_0.pth', world / 'double' / 'parameters_1.pth',
        world / 'single' / 'parameters_0.pth'))
    for key, value in first.items():
        assert torch.equal(second[key], value), key
    halves = zip(losses(world / 'double', 0), losses(world / 'double', 1))
    joint = losses(world / 'single')
    assert len(joint) == 6
    for ((i, left), (_, right)), (_, together) in zip(halves, joint):
        assert (left + right) / 2 == pytest.approx(together, rel=1e-5), f'iteration {i}'
    for key, value in first.items():
        torch.testing.assert_close(one[key], value, rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.cuda
def test_a_killed_run_on_cuda_resumes_with_nearly_the_losses_of_the_undisturbed_one(world):
    """fp16 with its gradient scaler. Sums on CUDA may differ in the last bits, other random numbers would show."""
    whole, cut = world / 'cuda-whole', world / 'cuda-cut'
    finish(start(world, 'small.py', '--amp', '--work-dir', whole))
    finish(start(world, 'small.py', '--amp', '--work-dir', cut, KILL_AT='9'), -signal.SIGKILL)
    assert 'epoch_1.pth' in finish(start(world, 'small.py', '--amp', '--work-dir', cut, '--resume'))
    there, here = losses(whole)[6:], losses(cut)[9:]
    assert [i for i, _ in here] == list(range(6, 12))
    for (i, expected), (_, loss) in zip(there, here):
        assert loss == pytest.approx(expected, rel=1e-2), f'iteration {i}'


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='needs two CUDA devices: NCCL takes one process for each')
def test_two_processes_train_in_step_over_nccl(world):
    """In fp16, against one process with the joint batch."""
    double, single = world / 'nccl-double', world / 'nccl-single'
    out = finish(start(world, 'in_step.py', '--work-dir', double, '--launcher', 'pytorch', launcher=(
        '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2')))
    assert 'gloo' not in out
    assert out.count('top-1 accuracy') == 1, 'one process speaks for both'
    finish(start(world, 'in_step.py', '--work-dir', single, '--no-validate',
                 '--cfg-options', 'train_dataloader.batch_size=8', CUDA_VISIBLE_DEVICES='0'))
    first, second = (torch.load(double / f'parameters_{rank}.pth', map_location='cpu') for rank in (0, 1))
    for key, value in first.items():
        assert torch.equal(second[key], value), key
    for ((i, left), (_, right)), (_, together) in zip(zip(losses(double, 0), losses(double, 1)), losses(single)):
        assert (left + right) / 2 == pytest.approx(together, rel=1e-2), f'iteration {i}'
