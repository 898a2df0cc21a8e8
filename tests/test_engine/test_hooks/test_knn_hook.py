"""KNNHook in real runners: what it logs, and that the training doesn't notice it."""
import json

import pytest
import torch
from classifier_run import log_of, runner
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS

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


def trained(folder, hooks):
    run, losses = runner(folder, hooks, backbone=dict(drop_rate=0.1)), Losses()
    run.register_hook(losses)
    run.train()
    return run, losses.seen


def test_it_logs_the_neighbors_of_the_output(tmp_path):
    """Before training and after each epoch; the last value against features made here."""
    run, _ = trained(tmp_path, [HOOK])
    lines = (next(tmp_path.rglob('vis_data')) / 'scalars.json').read_text().splitlines()
    logged = [entry for entry in map(json.loads, lines) if 'knn/top1_k5' in entry]
    assert [entry['step'] for entry in logged] == [0, 1, 2]
    dataset = DATASETS.build(LOADER['dataset'])
    images = torch.stack([dataset[i]['inputs'] for i in range(8)]).float()
    labels = torch.cat([dataset[i]['data_samples'].gt_label for i in range(8)])
    run.model.eval()
    with torch.no_grad():
        features = run.model.backbone((images - 127) / 64)[0]
    expected = knn_accuracy(features, labels, features, labels, (1, 5))
    assert (logged[-1]['knn/top1_k1'], logged[-1]['knn/top1_k5']) == pytest.approx((expected[1], expected[5]))
    assert expected[1] == 100, 'each image is its own nearest neighbor'
    assert 'k-NN after epoch 2: 100.00 (k = 1)' in log_of(run)


def test_the_training_does_not_notice_it(tmp_path):
    """Losses and random numbers are the same to the bit, with recalibrated statistics in a copy too."""
    _, expected = trained(tmp_path / 'without', [])
    run, found = trained(tmp_path / 'with', [dict(HOOK, recalibrate=8)])
    assert found == expected
    assert all(module.momentum == 0.1 for module in run.model.modules() if hasattr(module, 'momentum'))


def test_mistakes(tmp_path):
    for options, words in ((dict(k=()), 'k of KNNHook'), (dict(recalibrate=-1), 'recalibrate of KNNHook'),
                           (dict(interval=0), 'interval of KNNHook')):
        with pytest.raises(UserError, match=words):
            HOOKS.build(dict(HOOK, **options))
    with pytest.raises(UserError, match='k'):
        trained(tmp_path, [dict(HOOK, k=(20, ))])
