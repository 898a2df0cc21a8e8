"""Images of one task, and accuracy task by task."""
import numpy as np
import pytest
import torch
from labeled_images import Labeled
from mmengine.evaluator import Evaluator

from pervit_mm.engine.preflight import check_metrics
from pervit_mm.selfsup import PerViTChosenClasses, PerViTTaskAccuracy
from pervit_mm.utils.errors import UserError


def test_the_images_of_the_chosen_classes_keep_their_labels_and_their_order():
    chosen = PerViTChosenClasses(Labeled(), classes=[2, 0])
    paths = [int(chosen[i]['img_path']) for i in range(len(chosen))]
    assert paths == [i for i in range(60) if i % 3 == 0 or (i % 3 == 2 and i <= 30)]
    assert chosen.get_gt_labels().tolist() == [path % 3 for path in paths]
    assert chosen.get_cat_ids(1) == [2] and chosen.get_data_info(1)['img_path'] == '2'


@pytest.mark.parametrize('classes, words', [
    ([0, 3], r'names \[3\], of which the data set has no image: its labels are from 0 to 2'),
    ([], 'different numbers'), ([0, 0], 'different numbers'), ('01', 'different numbers'),
])
def test_classes_that_are_none(classes, words):
    with pytest.raises(UserError, match=words):
        PerViTChosenClasses(Labeled(), classes=classes)


def evaluate(scores, labels, **options):
    metric = PerViTTaskAccuracy(**options)
    metric.process({}, [dict(gt_label=torch.tensor([label]), pred_score=torch.tensor(row))
                        for row, label in zip(scores, labels)])
    return metric.evaluate(len(labels))


def test_accuracy_by_task_told_and_not_told():
    """Class 4 is of a later task. Its score never counts, and nor do its images."""
    scores = [[.5, .1, .2, .1, .9], [.1, .4, .5, .0, .9], [.1, .0, .3, .2, .0], [.6, .1, .3, .2, .0], [.9, 0, 0, 0, 0]]
    found = evaluate(scores, [0, 1, 2, 3, 4], tasks=[[0, 1], [2, 3], [4]], seen=2)
    assert found == {
        'tasks/aware_0': 100, 'tasks/aware_1': 50, 'tasks/aware': 75,
        'tasks/agnostic_0': 50, 'tasks/agnostic_1': 50, 'tasks/agnostic': 50}


def test_random_scores_against_a_slow_loop():
    rng = np.random.default_rng(0)
    scores, labels, tasks = rng.random((60, 6)), rng.integers(0, 6, 60), [[5, 0], [2], [1, 3, 4]]
    found = evaluate(scores.astype(np.float32), labels, tasks=tasks, seen=3)
    for number, classes in enumerate(tasks):
        of_task = [i for i in range(60) if labels[i] in classes]
        right = [max(classes, key=lambda one, i=i: scores[i, one]) == labels[i] for i in of_task]
        assert found[f'tasks/aware_{number}'] == pytest.approx(100 * np.mean(right))
        assert found[f'tasks/agnostic_{number}'] == pytest.approx(
            100 * np.mean([scores[i].argmax() == labels[i] for i in of_task]))


def test_the_metric_sees_the_task_that_is_learned():
    """Left at 1, it would score the first task alone, and say nothing."""
    metric, model = PerViTTaskAccuracy(tasks=[[0], [1], [2]], seen=1), torch.nn.Module()
    metric.check_model(model)  # any other classifier
    model.task = 0
    metric.check_model(model)
    model.task = 2
    with pytest.raises(UserError, match='seen of PerViTTaskAccuracy must be 3 while the model learns task 2, got 1'):
        check_metrics(model, Evaluator(metric))


@pytest.mark.parametrize('options, words', [
    (dict(seen=0), 'seen of PerViTTaskAccuracy must be from 1 to 2'), (dict(seen=2), 'no image of task 1'),
    (dict(tasks=[[0], [0]], seen=1), 'different numbers'), (dict(tasks=[], seen=1), 'must be lists of classes'),
])
def test_metric_mistakes(options, words):
    with pytest.raises(UserError, match=words):
        evaluate([[1., 0.]], [0], **{'tasks': [[0], [1]], **options})
