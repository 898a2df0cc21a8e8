"""What is said and written at the end of a run."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config

from pervit_mm.engine.results import describe_metric, dump_predictions, plain


@pytest.mark.parametrize('key, value, line', [
    ('accuracy/top1', 93.3649, 'top-1 accuracy in percent: 93.36'), ('mIoU', np.float32(53.75), 'mIoU: 53.75'),
    ('single-label/precision_classwise', [50., 100.], 'single-label/precision_classwise: [50.0, 100.0]'),
    ('confusion_matrix/result', torch.eye(2), 'confusion_matrix/result: [[1.0, 0.0], [0.0, 1.0]]')])
def test_a_metric_is_one_line(key, value, line):
    assert describe_metric(key, value) == line


def test_metrics_become_what_json_has():
    values = (1.5, np.float64(2), torch.ones(2), np.zeros(1), [3])
    assert [plain(value) for value in values] == [1.5, 2, [1, 1], [0], [3]]
    assert type(plain(np.float32(1))) is float


@pytest.mark.parametrize('scope, kind', [('mmpretrain', 'DumpResults'), ('mmseg', 'DumpResults'),
                                         ('mmdet', 'DumpDetResults')])
def test_predictions_are_dumped_by_the_toolbox(scope, kind, tmp_path):
    """MMDetection's dump has masks as run lengths."""
    pytest.importorskip(scope)
    runner = SimpleNamespace(cfg=Config(dict(default_scope=scope)), test_evaluator=SimpleNamespace(metrics=[]))
    dump_predictions(runner, str(tmp_path / 'all.pkl'))
    assert [type(metric).__name__ for metric in runner.test_evaluator.metrics] == [kind]
