"""What a training or a test gives at its end: lines for a reader, and files."""
from numbers import Real
from typing import Any

import numpy as np
from mmengine.dist import master_only
from mmengine.registry import METRICS, DefaultScope
from mmengine.runner import Runner
from torch import Tensor

from ..utils.paths import shown


@master_only
def print_result(runner: Runner) -> None:
    """Print one line per metric of the last validation, and where the checkpoint is.

    Args:
        runner (Runner): After ``train()``.
    """
    hub = runner.message_hub
    for key, history in hub.log_scalars.items():
        if key.startswith('val/') and not key.endswith(('/time', '/data_time')):
            print(describe_metric(key[len('val/'):], history.current()))
    for key, words in (('best_ckpt', 'best checkpoint'), ('last_ckpt', 'checkpoint')):
        if hub.runtime_info.get(key):
            print(f'{words}: {shown(hub.get_info(key))}')


def describe_metric(key: str, value: Any) -> str:
    """A metric and its value as a reader would say it.

    Args:
        key (str): What the toolbox calls it: 'accuracy/top1' becomes 'top-1 accuracy in percent'.
        value: A number. Some metrics have one for each class, in a list or a tensor.

    Returns:
        str: One line.
    """
    if key.startswith('accuracy/top'):
        key = f'top-{key[len("accuracy/top"):]} accuracy in percent'
    value = plain(value)
    return f'{key}: {value:.4g}' if isinstance(value, Real) else f'{key}: {value}'


def plain(value: Any) -> Any:
    """The value of a metric as numbers and lists, which files of JSON take."""
    return value.tolist() if isinstance(value, (Tensor, np.ndarray, np.generic)) else value


def dump_predictions(runner: Runner, path: str) -> None:
    """Let a test write its predictions into a file, as the toolboxes' own test.py do with ``--out``.

    MMDetection's way keeps masks as run lengths: those of COCO would not fit into memory otherwise.

    Args:
        runner (Runner): Ahead of ``test()``.
        path (str): Ends in .pkl or .pickle.
    """
    kind = 'DumpDetResults' if runner.cfg.get('default_scope') == 'mmdet' else 'DumpResults'
    with DefaultScope.overwrite_default_scope(runner.cfg.get('default_scope', 'mmengine')):
        runner.test_evaluator.metrics.append(METRICS.build(dict(type=kind, out_file_path=path)))
