"""SIGTERM ends a run in good order."""
import multiprocessing
import os
import signal
import subprocess
from pathlib import Path
from time import sleep

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from toy_run import samples, toy_runner, weights
from two_processes import process_group, second_process

from pervit_mm.utils.errors import UserError


class Sender(Hook):
    """Sends the signal ``number`` to this process before iteration ``at``."""

    def __init__(self, at, number):
        self.at, self.number = at, number

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            os.kill(os.getpid(), self.number)


class GroupSender(Sender):
    """Sends it to this process and to its data workers, from another process, as a launcher or a queue does."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            self.workers = multiprocessing.active_children()
            assert self.workers
            subprocess.run(['kill', f'-{self.number.value}', str(os.getpid()),
                            *(str(worker.pid) for worker in self.workers)], check=True)
            sleep(0.5)  # a worker would be dead now, and torch would have raised


class SlowDisk(Hook):
    """Makes each checkpoint take two seconds."""

    def before_save_checkpoint(self, runner, checkpoint):
        sleep(2)


PREEMPTION = dict(type='PerViTPreemptionHook')


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_by_iteration_resumes_to_the_same_weights(tmp_path, number):
    options = dict(by_iteration=9, checkpoint=dict(by_epoch=False, interval=5), hooks=[PREEMPTION])
    whole = toy_runner(tmp_path / 'whole', **options)
    whole.train()
    run = toy_runner(tmp_path / 'cut', **{**options, 'hooks': [PREEMPTION, Sender(2, number)]})
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        run.train()
    assert stop.value.code == 128 + number and signal.getsignal(number) is before
    assert (tmp_path / 'cut' / 'last_checkpoint').read_text().endswith('iter_3.pth')
    resumed = toy_runner(tmp_path / 'cut', resume=True, **options)
    resumed.train()
    assert all(torch.equal(value, weights(whole)[key]) for key, value in weights(resumed).items())


@pytest.mark.skipif(not hasattr(signal, 'sigwaitinfo'), reason='needs a platform that tells whom a signal is from')
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_data_workers_that_get_the_signal_too_live_on(tmp_path, number):
    loader = dict(batch_size=4, num_workers=1, dataset=samples(), collate_fn=dict(type='default_collate'),
                  sampler=dict(type='InfiniteSampler', shuffle=True))
    sender = GroupSender(2, number)
    run = toy_runner(tmp_path, by_iteration=9, checkpoint=dict(by_epoch=False, interval=5), train_dataloader=loader,
                     hooks=[PREEMPTION, sender], scores=[1.])
    with pytest.raises(SystemExit) as stop:
        run.train()
    assert stop.value.code == 128 + number
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_3.pth')
    worker, = sender.workers
    assert worker.is_alive()
    worker.terminate()  # as multiprocessing does at the end of the process
    worker.join(10)
    assert worker.exitcode == 0


def test_a_run_by_epoch_ends_at_once_and_resumes_from_its_last_checkpoint(tmp_path):
    whole = toy_runner(tmp_path / 'whole')
    whole.train()
    run = toy_runner(tmp_path / 'cut', hooks=[PREEMPTION, Sender(4, signal.SIGTERM)])
    with pytest.raises(SystemExit) as stop:
        run.train()
    assert stop.value.code == 143 and run.iter == 4, 'the iteration is finished and no other begun'
    assert (tmp_path / 'cut' / 'last_checkpoint').read_text().endswith('epoch_1.pth')
    resumed = toy_runner(tmp_path / 'cut', resume=True)
    resumed.train()
    assert all(torch.equal(value, weights(whole)[key]) for key, value in weights(resumed).items())


def run_rank(rank, folder):
    """How many iterations one of two processes trains, and whether it ends with the checkpoint in its place.

    The second gets a signal before the fourth. The first writes slowly.
    """
    with process_group(rank, folder):
        hooks = [dict(PREEMPTION, interval=5), Sender(3, signal.SIGTERM) if rank else SlowDisk()]
        run = toy_runner(f'{folder}/run', by_iteration=30, checkpoint=dict(by_epoch=False, interval=30),
                         hooks=hooks)
        with pytest.raises(SystemExit, match='143'):
            run.train()
        return run.iter + 1, Path(folder, 'run', 'iter_5.pth').exists()


def test_two_processes_stop_after_the_same_iteration_and_wait_for_the_checkpoint(tmp_path):
    """A launcher ends the first as soon as the second is gone."""
    with second_process(__file__, tmp_path) as of_second:
        of_first = run_rank(0, tmp_path)
    assert (of_first, of_second) == ((5, True), [(5, True)])
    assert (tmp_path / 'run' / 'last_checkpoint').read_text().endswith('iter_5.pth')


def test_a_platform_without_a_signal_listens_to_the_other_one(monkeypatch):
    """Windows has no SIGUSR1. A name that the user gives must be there."""
    monkeypatch.delattr(signal, 'SIGUSR1')
    assert HOOKS.build(PREEMPTION).signals == [signal.SIGTERM]
    with pytest.raises(UserError, match='signals of PerViTPreemptionHook must be names'):
        HOOKS.build(dict(PREEMPTION, signals=['SIGUSR1']))


def test_mistakes_are_named():
    for interval in (0, -1, 1.5, True):
        with pytest.raises(UserError, match='interval of PerViTPreemptionHook must be a positive number'):
            HOOKS.build(dict(PREEMPTION, interval=interval))
    for signals in ('SIGTERM', ['SIGNONE']):
        with pytest.raises(UserError, match='signals of PerViTPreemptionHook must be names such as SIGTERM'):
            HOOKS.build(dict(PREEMPTION, signals=signals))
