"""Accuracy task by task, and what a network forgets."""
from collections.abc import Mapping, Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import nn

from ..utils.errors import UserError
from .checks import check_tasks


@METRICS.register_module()
class PerViTTaskAccuracy(BaseMetric):
    """Accuracy on the test images of each task that a classifier has seen, in percent.

    ``tasks/aware_i`` is told the task: the prediction is the best class of task i. ``tasks/agnostic_i`` is not: the
    prediction is the best of all classes seen so far. ``tasks/aware`` and ``tasks/agnostic`` are their means over the
    tasks seen so far.

    Args:
        tasks (Sequence[Sequence[int]]): Classes of each task.
        seen (int): Number of tasks seen so far. Images of later tasks don't count.
        collect_device (str): MMEngine's. Defaults to 'cpu'.
        prefix (str, optional): MMEngine's. Defaults to None, 'tasks'.

    Raises:
        UserError: If ``tasks`` are no lists of different classes, or ``seen`` is out of range; while evaluating, if
            there is no image of a task; before training, if a :class:`DistilledClassifier` learns another task than the
            last one seen.
    """

    default_prefix = 'tasks'

    def __init__(self, tasks: Sequence[Sequence[int]], seen: int, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        check_tasks('PerViTTaskAccuracy', tasks)
        if type(seen) is not int or not 1 <= seen <= len(tasks):
            raise UserError(f'seen of PerViTTaskAccuracy must be from 1 to {len(tasks)}, the number of tasks, got '
                            f'{seen!r}')
        self.tasks = [list(classes) for classes in tasks[:seen]]

    def check_model(self, model: nn.Module) -> None:
        """Raise UserError if a :class:`DistilledClassifier` learns another task than the last that is scored."""
        task = getattr(model, 'task', None)
        if type(task) is int and task + 1 != len(self.tasks):
            raise UserError(f'seen of PerViTTaskAccuracy must be {task + 1} while the model learns task {task}, got '
                            f'{len(self.tasks)}: set val_evaluator.seen and test_evaluator.seen to {task + 1}')

    def process(self, data_batch: Mapping, data_samples: Sequence[dict]) -> None:
        """Note task and hits of each image of a batch."""
        known = sorted(one for classes in self.tasks for one in classes)
        task_of = {one: task for task, classes in enumerate(self.tasks) for one in classes}
        for sample in data_samples:
            label, scores = int(sample['gt_label']), sample['pred_score']
            task = task_of.get(label, -1)  # MMEngine wants a result of each image
            best = [classes[int(scores[classes].argmax())] for classes in (self.tasks[task], known)]
            self.results.append((task, best[0] == label, best[1] == label))

    def compute_metrics(self, results: list[tuple[int, bool, bool]]) -> dict[str, float]:
        """Accuracies by name."""
        hits = np.array(results, dtype=float).reshape(-1, 3)
        metrics: dict[str, float] = {}
        for column, name in ((1, 'aware'), (2, 'agnostic')):
            for task in range(len(self.tasks)):
                of_task = hits[hits[:, 0] == task, column]
                if not len(of_task):
                    raise UserError(f'PerViTTaskAccuracy: val_dataloader has no image of task {task}, whose classes '
                                    f'are {self.tasks[task]}')
                metrics[f'{name}_{task}'] = 100 * float(of_task.mean())
            metrics[name] = float(np.mean([metrics[f'{name}_{task}'] for task in range(len(self.tasks))]))
        return metrics


def average_accuracy(accuracies: Sequence[Sequence[float]]) -> float:
    """Mean accuracy over all tasks at the end (Lopez-Paz and Ranzato 2017, GEM).

    Args:
        accuracies (Sequence[Sequence[float]]): Entry [t][i] is the accuracy on task i after training on task t, for i
            from 0 to t.

    Returns:
        float: In the unit of the entries.
    """
    return float(np.mean(accuracies[-1]))


def forgetting(accuracies: Sequence[Sequence[float]]) -> float:
    """How much accuracy is lost at the end (Chaudhry et al. 2018, Riemannian Walk for Incremental Learning).

    For each task but the last: its best accuracy before the last training, minus that at the end. Mean over these
    tasks. It is negative where accuracy rose.

    Args:
        accuracies (Sequence[Sequence[float]]): See :func:`average_accuracy`; at least two tasks.

    Returns:
        float: In the unit of the entries.
    """
    last = len(accuracies) - 1
    return float(np.mean([max(accuracies[t][task] for t in range(task, last)) - accuracies[last][task]
                          for task in range(last)]))
