"""Entries of metafile.yml, from the log of a training."""
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import yaml

from ..apis.flops import FlopCount
from ..checkpoints.published import FOLDER, PREFIX
from ..utils.errors import UserError, told

# By name in a log: the task and the metric as the toolboxes' metafiles name them, and the factor between the two.
_METRICS = {
    'accuracy/top1': ('Image Classification', 'Top 1 Accuracy', 1),
    'coco/bbox_mAP': ('Object Detection', 'box AP', 100),
    'coco/bbox_mAP_50': ('Object Detection', 'box AP50', 100),
    'coco/segm_mAP': ('Instance Segmentation', 'mask AP', 100),
    'coco/segm_mAP_50': ('Instance Segmentation', 'mask AP50', 100),
    'mIoU': ('Semantic Segmentation', 'mIoU', 1),
    'knn/top1_k20': ('Self-Supervised Learning', 'k-NN Top 1 Accuracy', 1),
}
_DATASETS = {'fashion-mnist': 'Fashion-MNIST', 'fashion-scenes': 'FashionScenes'}


def read_log(paths: Sequence[str | Path], steps: Collection[int] = ()) -> tuple[bytes, dict[str, float]]:
    """Join the ``vis_data/scalars.json`` of a training and of the runs that resumed it.

    Args:
        paths (Sequence[str | Path]): The files, oldest first.
        steps (Collection[int]): Epoch and iteration of the checkpoint: metrics of other steps are of other weights.
            Defaults to (), which takes all. Lines without a step, as tools/test.py writes them, count always.

    Returns:
        tuple[bytes, dict[str, float]]: The lines of all files, and the last value of each metric that a metafile has.

    Raises:
        UserError: If a file cannot be read, a line holds anything but numbers, as lines of other logs do, or all
            metrics are of other steps.
    """
    lines, measured, others = [], {}, set()
    for path in paths:
        with told(f"--log '{path}' cannot be read"):
            text = Path(path).read_text()
        for line in text.splitlines():
            try:
                values = json.loads(line)
                if not all(isinstance(value, (int, float)) for value in values.values()):
                    raise ValueError
            except (AttributeError, ValueError) as error:
                raise UserError(f"--log '{path}' must be a vis_data/scalars.json, a dict of numbers in each line, got "
                                f'{line[:60]!r}') from error
            found = {key: values[key] for key in _METRICS if key in values}
            if found and steps and 'step' in values and values['step'] not in steps:
                others.add(values['step'])
            else:
                measured.update(found)
            lines.append(line + '\n')
    if others and not measured:
        raise UserError(f'--log has results of the steps {sorted(others)}, and the checkpoint is of '
                        f'{" or ".join(map(str, sorted(steps)))}: test it by tools/test.py --out-metrics, and give '
                        'that file too')
    return ''.join(lines).encode(), measured


class _Indented(yaml.SafeDumper):

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def metafile_entry(name: str, config: str, file: str, log: str | None, count: FlopCount,
                   measured: Mapping[str, float], command: str) -> str:
    """Lines for ``Models:`` of a metafile.

    Args:
        name (str): Name of the model.
        config (str): Path of its config, relative to the top level.
        file (str): Name of the checkpoint.
        log (str, optional): Name of the log.
        count (FlopCount): Multiply-adds and parameters.
        measured (Mapping[str, float]): From :func:`read_log`.
        command (str): The command that trained it.

    Returns:
        str: YAML.
    """
    data = name.rsplit('_', 1)[-1]
    data = _DATASETS.get(data, data)
    metrics = {}
    for key, (task, metric, factor) in _METRICS.items():
        if key in measured:
            metrics.setdefault(task, {})[metric] = round(measured[key] * factor, 2)
    results = [dict(Dataset=data, Metrics=values, Task=task) for task, values in metrics.items()]
    metadata = {'Training Data': data, 'Training Command': command, 'FLOPs': count.flops, 'Parameters': count.params}
    entry = {'Name': name, 'Metadata': metadata, 'In Collection': 'PerViT', **({'Results': results} if results else {}),
             'Weights': PREFIX + file, **({'Training log': f'{FOLDER}/{log}'} if log else {}), 'Config': config}
    text = yaml.dump({'Models': [entry]}, sort_keys=False, width=1000, Dumper=_Indented)
    return text.removeprefix('Models:\n')
