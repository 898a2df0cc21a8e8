"""KNNHook in real runners: what it logs, and that the training doesn't notice it."""
import json
import multiprocessing
import signal
import subprocess
from time import sleep
from types import SimpleNamespace

import pytest
import torch
from classifier_run import log_of, runner
from distillation_run import BACKBONE, DINO, distillation_runner, distiller
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS

from pervit_mm.engine.hooks.knn_hook import KNNHook
from pervit_mm.evaluation import knn_accuracy
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')

LOADER = dict(batch_size=3, num_workers=0, dataset=dict(type='RandomImages'), collate_fn=dict(type='default_collate'))
HOOK = dict(type='KNNHook', bank=LOADER, queries=dict(LOADER, batch_size=4), k=(1, 5))


class Losses(Hook):
    """Keeps the loss of each iteration, and a random number after it."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append((float(outputs['loss']), float(torch.rand(()))))


def logged_in(folder):
    """What was logged, in the order of the steps."""
    lines = (next(folder.rglob('vis_data')) / 'scalars.json').read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if 'knn/top1_k5' in entry]


def images_and_labels(mean=127, std=64):
    """The normalized images and their labels."""
    dataset = DATASETS.build(LOADER['dataset'])
    images = torch.stack([dataset[i]['inputs'] for i in range(8)]).float()
    return (images - mean) / std, torch.cat([dataset[i]['data_samples'].gt_label for i in range(8)])


def trained(folder, hooks):
    run, losses = runner(folder, hooks, backbone=dict(drop_rate=0.1)), Losses()
    run.register_hook(losses)
    run.train()
    return run, losses.seen


def test_it_logs_the_neighbors_of_the_output(tmp_path):
    """Before training and after each epoch; the last value against features made here."""
    run, _ = trained(tmp_path, [HOOK])
    logged, (images, labels) = logged_in(tmp_path), images_and_labels()
    assert [entry['step'] for entry in logged] == [0, 1, 2]
    run.model.eval()
    with torch.no_grad():
        features = run.model.backbone(images)[0]
    expected = knn_accuracy(features, labels, features, labels, (1, 5))
    assert (logged[-1]['knn/top1_k1'], logged[-1]['knn/top1_k5']) == pytest.approx((expected[1], expected[5]))
    assert expected[1] == 100, 'each image is its own nearest neighbor'
    assert 'k-NN after epoch 2: 100.00 (k = 1)' in log_of(run)


class WorkerSignal(Hook):
    """Sends SIGTERM to all data workers before the second epoch, from another process."""

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            self.workers = multiprocessing.active_children()
            subprocess.run(['kill', *(str(worker.pid) for worker in self.workers)], check=True)
            sleep(0.5)


@pytest.mark.skipif(not hasattr(signal, 'sigwaitinfo'), reason='needs a platform that tells whom a signal is from')
def test_its_workers_outlive_the_signal_of_a_preemption(tmp_path):
    """The workers of bank and queries, which stay from one epoch to the next, are asked again behind the signal."""
    loader, sender = dict(LOADER, num_workers=1, persistent_workers=True), WorkerSignal()
    hook = dict(HOOK, bank=loader, queries=loader)
    run, _ = trained(tmp_path, [hook, dict(type='PerViTPreemptionHook'), sender])
    assert len(sender.workers) == 2
    assert [entry['step'] for entry in logged_in(tmp_path)] == [0, 1, 2]


def test_the_training_does_not_notice_it(tmp_path):
    """Losses and random numbers are the same to the bit, with recalibrated statistics in a copy too."""
    _, expected = trained(tmp_path / 'without', [])
    run, found = trained(tmp_path / 'with', [dict(HOOK, recalibrate=8)])
    assert found == expected
    assert all(module.momentum == 0.1 for module in run.model.modules() if hasattr(module, 'momentum'))


def test_the_start_can_be_left_out(tmp_path):
    trained(tmp_path, [dict(HOOK, before_training=False)])
    assert [entry['step'] for entry in logged_in(tmp_path)] == [1, 2]


class Modes(Hook):
    """Keeps the mode of every module before each iteration, and the mode of the student in each of its forwards."""

    def before_run(self, runner):
        self.modes, self.student = [], []
        runner.model.backbone.register_forward_hook(lambda module, *args: self.student.append(module.training))

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.modes.append([module.training for module in runner.model.modules()])


def distilled(folder, hooks):
    run, modes = distillation_runner(
        folder, dict(DINO, backbone=dict(BACKBONE, in_channels=3, drop_path_rate=0.2)), channels=3,
        hooks=[dict(type='DistillationHook'), *hooks],
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])), Modes()
    run.register_hook(modes)
    run.train()
    return run, modes


def test_the_teachers_neighbors_are_those_of_its_features(tmp_path):
    """The student isn't asked, and the training doesn't notice: weights, statistics and modes are the same."""
    run, found = distilled(tmp_path / 'with', [dict(HOOK, backbone='teacher.module.backbone', interval=2)])
    logged, (images, labels) = logged_in(tmp_path), images_and_labels()
    assert [entry['step'] for entry in logged] == [0, 2] and all(found.student)
    run.model.eval()
    features = run.model.teacher_tokens([images]).mean(1)
    expected = knn_accuracy(features, labels, features, labels, (1, 5))
    assert (logged[-1]['knn/top1_k1'], logged[-1]['knn/top1_k5']) == pytest.approx((expected[1], expected[5]))
    other, without = distilled(tmp_path / 'without', [])
    assert found.modes == without.modes
    for key, value in other.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[key], value), key


def test_a_backbone_that_is_not_there_is_told(tmp_path):
    """When training starts, also if it would be asked only at the end."""
    run, losses = runner(tmp_path, [dict(HOOK, backbone='teacher.module.backbone', before_training=False)]), Losses()
    run.register_hook(losses)
    with pytest.raises(UserError, match="backbone of KNNHook names 'teacher.module.backbone', which ImageClassifier "
                       "does not have; at its top are .*'backbone'"):
        run.train()
    assert not losses.seen


def test_the_backbone_is_found_behind_a_wrapper():
    model = distiller()
    for name, part in (('backbone', model.backbone), ('teacher.module.backbone', model.teacher.module['backbone'])):
        hook = KNNHook(LOADER, LOADER, backbone=name)
        for outer in (model, torch.nn.DataParallel(model)):
            found = hook._part(SimpleNamespace(model=outer))
            assert found.backbone is part and found.data_preprocessor is model.data_preprocessor


def test_mistakes(tmp_path):
    for options, words in ((dict(k=()), 'k of KNNHook'), (dict(recalibrate=-1), 'recalibrate of KNNHook'),
                           (dict(interval=0), 'interval of KNNHook')):
        with pytest.raises(UserError, match=words):
            HOOKS.build(dict(HOOK, **options))
    with pytest.raises(UserError, match='k'):
        trained(tmp_path, [dict(HOOK, k=(20, ))])
