"""Linear probe: how well a linear classifier on frozen features does, with all labels or with few."""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
import torch
from torch import Tensor

from ..utils.errors import UserError
from .features import Features, check_labeled, percent_correct

#: Regularizations that are tried: scikit-learn's C, larger is weaker.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1., 10.)


@dataclass(frozen=True)
class ProbeResult:
    """What a linear probe reached.

    Attributes:
        top1 (float): Accuracy on the test features in percent.
        strength (float): The C that was chosen.
        held_out (float, optional): Accuracy in percent on the held-out part of the training features at that C, by
            which blocks may be compared without looking at the test set. None if there was nothing to choose.
    """

    top1: float
    strength: float
    held_out: float | None


@dataclass(frozen=True)
class FewShotResult:
    """Accuracy on few labels, one for each draw.

    Attributes:
        top1 (tuple[float, ...]): Accuracy in percent of each draw.
        mean (float): Their mean.
        deviation (float): Their sample standard deviation.
    """

    top1: tuple[float, ...]
    mean: float
    deviation: float


def linear_probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor,
                 strengths: Sequence[float] = STRENGTHS, seed: int = 0) -> ProbeResult:
    """Accuracy of multinomial logistic regression on standardized features.

    Mean and deviation for the standardization come from the features that the classifier is trained on. C is chosen on
    a fifth of each class of the training set. Then the classifier is trained on the whole training set. The test set
    takes part in nothing of it.

    Args:
        train (Tensor): ``(n, C)``.
        train_labels (Tensor): ``(n,)`` integers from 0, at least two classes.
        test (Tensor): ``(m, C)``.
        test_labels (Tensor): ``(m,)``.
        strengths (Sequence[float]): Values of C, above 0. With a single one nothing is held out. Defaults to the powers
            of ten from 1e-4 to 10.
        seed (int): Draws the part that is held out. Defaults to 0.

    Returns:
        ProbeResult: C is that of the best held-out accuracy. Of equally accurate ones, it is the one with the lowest
        held-out cross-entropy.

    Raises:
        UserError: If features and labels don't fit together, there are fewer than two classes, C is to be chosen and a
            class has a single image, ``strengths`` are not above 0, or scikit-learn is not installed.
    """
    check_labeled('training', train, train_labels)
    check_labeled('test', test, test_labels)
    if train.shape[1] != test.shape[1]:
        raise UserError(f'train and test must have the same width, got {train.shape[1]} and {test.shape[1]}: collect '
                        'both with the same model')
    counts = torch.bincount(train_labels)
    if (counts > 0).sum() < 2:
        raise UserError('train_labels must have at least two classes, got one: a classifier has nothing to tell apart')
    strengths = sorted(strengths)
    if not strengths or not strengths[0] > 0:
        raise UserError(f'strengths must be values of C above 0, got {strengths}; 1 is usual')
    x, y, x_test, y_test = (tensor.cpu().numpy() for tensor in (train.double(), train_labels, test.double(),
                                                                 test_labels))
    chosen, held_out = strengths[0], None
    if len(strengths) > 1:
        if (counts == 1).any():
            raise UserError(f'class {int((counts == 1).nonzero()[0])} has a single training image, and none can be '
                            'held out to choose C: give one value of strengths, or more images')
        held = np.zeros(len(y), bool)
        held[_draw(train_labels, lambda count: max(1, round(count / 5)), seed)] = True
        choices = []
        for strength, (classes, log_chances) in zip(strengths, _train(x[~held], y[~held], x[held], strengths)):
            fit = np.take_along_axis(log_chances, np.searchsorted(classes, y[held])[:, None], axis=1).mean()
            choices.append((percent_correct(classes[log_chances.argmax(1)], y[held]), fit, strength))
        held_out, _, chosen = max(choices)
    (classes, log_chances), = _train(x, y, x_test, [chosen])
    return ProbeResult(percent_correct(classes[log_chances.argmax(1)], y_test), chosen, held_out)


def probe_blocks(train: Features, test: Features, seed: int = 0) -> dict[int, ProbeResult]:
    """:func:`linear_probe` on each block, which shows the block that is best for a task.

    Walmer et al. 2023 (Teaching Matters) find that the best block depends on the task and is often not the last. Choose
    it by ``held_out``: the largest ``top1`` of several blocks is biased.

    Args:
        train (Features): With labels.
        test (Features): With labels and the same blocks.
        seed (int): Draws the part that is held out. Defaults to 0.

    Returns:
        dict[int, ProbeResult]: By block, in rising order.

    Raises:
        UserError: As :func:`linear_probe`, or if a block is missing.
    """
    return {index: linear_probe(train.joined([index]), train.labels, test.joined([index]), test.labels, seed=seed)
            for index in sorted(train.blocks)}


def few_shot_probe(train: Features, test: Features, blocks: Sequence[int], shots: int,
                   seeds: Sequence[int] = (0, 1, 2)) -> FewShotResult:
    """:func:`linear_probe` on few labels, with the features of several blocks side by side.

    Naseer et al. 2021 (Intriguing Properties of Vision Transformers, "off-the-shelf tokens") find that joining blocks
    helps. C is chosen on a part of the drawn images. A single shot leaves no such part, and C is 1.

    Args:
        train (Features): With labels, from which the shots are drawn.
        test (Features): With labels and the same blocks.
        blocks (Sequence[int]): Blocks whose features are joined.
        shots (int): Images of each class.
        seeds (Sequence[int]): One for each draw, at least two. Defaults to (0, 1, 2).

    Returns:
        FewShotResult: Over the draws.

    Raises:
        UserError: As :func:`linear_probe`; if a block is missing, a class has fewer images than ``shots``, or there are
            fewer than two different seeds.
    """
    if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds):
        raise UserError(f'seeds must be at least two different numbers, got {tuple(seeds)}: one draw has no deviation')
    x, x_test = train.joined(blocks), test.joined(blocks)
    check_labeled('training', x, train.labels)
    top1 = []
    for seed in seeds:
        drawn = draw_shots(train.labels, shots, seed)
        top1.append(linear_probe(x[drawn], train.labels[drawn], x_test, test.labels,
                                 STRENGTHS if shots > 1 else (1., ), seed).top1)
    return FewShotResult(tuple(top1), mean(top1), stdev(top1))


def draw_shots(labels: Tensor, shots: int, seed: int) -> Tensor:
    """Draw the same number of images of each class.

    Args:
        labels (Tensor): ``(n,)`` classes.
        shots (int): Images of each class that occurs, at least 1.
        seed (int): The same seed draws the same images.

    Returns:
        Tensor: Their places, ``(classes * shots,)`` int64 in rising order.

    Raises:
        UserError: If ``shots`` is below 1, or a class has fewer images.
    """
    classes, counts = labels.unique(return_counts=True)
    least = int(counts.min())
    if not 1 <= shots <= least:
        raise UserError(f'shots must be from 1 to {least}, the images of class {int(classes[counts.argmin()])}, got '
                        f'{shots}: ask for fewer')
    return torch.from_numpy(_draw(labels, lambda count: shots, seed))


def _draw(labels: Tensor, number_of: Callable[[int], int], seed: int) -> np.ndarray:
    """Places of ``number_of(count)`` images of each class, drawn at random, in rising order."""
    generator, labels = np.random.default_rng(seed), labels.cpu().numpy()
    drawn = []
    for number in np.unique(labels):
        places = generator.permutation(np.flatnonzero(labels == number))
        drawn.append(places[:number_of(len(places))])
    return np.sort(np.concatenate(drawn))


def _train(x: np.ndarray, y: np.ndarray, x_test: np.ndarray,
           strengths: Sequence[float]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Train for each C, in rising order: each training begins where the one before ended.

    Args:
        x (np.ndarray): Training features ``(n, C)``.
        y (np.ndarray): Their classes ``(n,)``.
        x_test (np.ndarray): Features to classify, ``(m, C)``.
        strengths (Sequence[float]): Values of C.

    Yields:
        tuple[np.ndarray, np.ndarray]: The classes in ``y``, and their log probabilities ``(m, classes)`` in the same
        order.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise UserError('The linear probe needs scikit-learn, which is not installed: run "pip install '
                        'scikit-learn".') from error
    scaler = StandardScaler().fit(x)
    x, x_test = scaler.transform(x), scaler.transform(x_test)
    classifier = LogisticRegression(max_iter=1000, warm_start=True)
    for strength in strengths:
        classifier.set_params(C=strength).fit(x, y)
        yield classifier.classes_, classifier.predict_log_proba(x_test)
