"""BatchNorm's statistics in two processes: their average is saved, and both processes evaluate with it."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.runner import get_priority

from pervit_mm.engine.hooks import PerViTSyncBuffersHook

ROOT = Path(__file__).parents[3]
SCRIPT = '''
import sys

import torch
import torch.distributed as dist
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from pervit_mm.engine.machine import init_gloo

init_gloo('pytorch')
rank, work_dir = dist.get_rank(), sys.argv[1]


class Net(BaseModel):

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(1)

    def forward(self, x, mode='tensor'):
        out = self.norm(x)
        return dict(loss=out.square().mean()) if mode == 'loss' else [out]


class Nothing(BaseMetric):

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(nothing=0.)


class Validated(Hook):

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        torch.save(runner.model.module.state_dict(), f'{work_dir}/validated_{rank}.pth')


# Iteration i gives the first process images of i and the second of i + 2.
images = torch.arange(3.).reshape(3, 1, 1).expand(3, 4, 1) + 2 * rank
loaders = [torch.utils.data.DataLoader([dict(x=x) for x in data], batch_size=None) for data in (images, images[:1])]
Runner(
    Net(), work_dir, *loaders, train_cfg=dict(type='IterBasedTrainLoop', max_iters=3, val_interval=3), val_cfg=dict(),
    val_evaluator=[Nothing()], optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.)), launcher='pytorch',
    custom_hooks=[dict(type='PerViTSyncBuffersHook'), Validated()], log_level='ERROR',
    default_hooks=dict(
        sampler_seed=None, checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3)),
    cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)),
).train()
'''


def test_buffers_are_synced_ahead_of_moving_averages_and_of_saving():
    sync, average, save = (get_priority(hook.priority) for hook in (PerViTSyncBuffersHook, EMAHook, CheckpointHook))
    assert sync < average < save


def test_both_processes_validate_what_is_saved(tmp_path):
    (tmp_path / 'script.py').write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', 'script.py',
         str(tmp_path)],
        cwd=tmp_path, env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    saved = torch.load(tmp_path / 'iter_3.pth')['state_dict']
    # Three batches at momentum 0.1. The mean starts at 0 and sees 1, 2 and 3, each the average of both processes. The
    # variance starts at 1 and sees 0 each time.
    assert saved['norm.running_mean'].item() == pytest.approx(0.9 * (0.9 * 0.1 + 0.2) + 0.3)
    assert saved['norm.running_var'].item() == pytest.approx(0.9**3)
    assert saved['norm.num_batches_tracked'].item() == 3
    for rank in (0, 1):
        validated = torch.load(tmp_path / f'validated_{rank}.pth')
        assert all(torch.equal(validated[key], value) for key, value in saved.items())
