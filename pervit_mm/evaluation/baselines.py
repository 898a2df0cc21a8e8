"""What features are worth beside raw pixels and random weights: one row of a table for each kind of features."""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

from torch import nn

from ..utils.errors import UserError
from ..utils.markdown import markdown_table
from .features import Features, check_labeled, collect_features
from .linear_probe import FewShotResult, ProbeResult, draw_shots, few_shot_probe, linear_probe
from .neighbours import NUM_NEIGHBORS, knn_accuracy

#: Neighbors that vote where few images have labels.
FEW_NEIGHBORS = 20


@dataclass(frozen=True)
class Baseline:
    """What one kind of features is worth. Accuracies are top-1 on the queries, in percent.

    Attributes:
        features (str): What they are, for the table.
        bank (int): Images of the bank, from which the few labeled ones are drawn.
        queries (int): Images that are classified.
        knn (dict[int, float]): k-NN with the whole bank, by k.
        shots (int, optional): Labeled images of each class where labels are few; None if that was not measured, and
            then the next four mean nothing.
        seeds (tuple[int, ...]): Of the draws.
        few_k (int, optional): Neighbors where labels are few.
        few_knn (FewShotResult, optional): k-NN on few labels.
        few_probe (FewShotResult, optional): Linear probe on the same few labels.
        full_probe (ProbeResult, optional): Linear probe with all labels of the bank; None if not asked for.
    """

    features: str
    bank: int
    queries: int
    knn: dict[int, float]
    shots: int | None
    seeds: tuple[int, ...]
    few_k: int | None
    few_knn: FewShotResult | None
    few_probe: FewShotResult | None
    full_probe: ProbeResult | None


class _RawPixels(nn.Module):
    """Stands for a model whose features are the pixels as the pipeline gives them, before normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Flatten()

    def data_preprocessor(self, data: Mapping, training: bool) -> dict:
        """The batch as it is."""
        return dict(data)


def pixel_features(batches: Iterable) -> Features:
    """The pixels of each image in a row, not normalized: a normalization would move the origin of the cosines.

    Args:
        batches (Iterable): A data loader that stacks images, or batches, see
            :func:`pervit_mm.evaluation.features.read_batch`.

    Returns:
        Features: ``output`` is ``(n, C * h * w)``.

    Raises:
        UserError: As :func:`pervit_mm.evaluation.collect_features`.
    """
    return collect_features(_RawPixels(), batches, ())


def center_features(bank: Features, queries: Features) -> tuple[Features, Features]:
    """Subtract the mean of the bank's outputs from the outputs of bank and queries. Labels play no part in it."""
    center = bank.output.mean(0)
    return replace(bank, output=bank.output - center), replace(queries, output=queries.output - center)


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise UserError unless there are at least two seeds, all different."""
    if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds):
        raise UserError(f'seeds must be at least two different numbers, got {tuple(seeds)}: one draw has no deviation')


def few_shot_knn(bank: Features, queries: Features, shots: int, seeds: Sequence[int] = (0, 1, 2),
                 k: int = FEW_NEIGHBORS, temperature: float = 0.07) -> FewShotResult:
    """:func:`pervit_mm.evaluation.knn_accuracy` of the outputs with few labeled images as the bank.

    Args:
        bank (Features): With labels, from which the shots are drawn. :func:`pervit_mm.evaluation.few_shot_probe` and
            ``PerViTFewLabels`` draw the same images by the same seed.
        queries (Features): With labels.
        shots (int): Images of each class.
        seeds (Sequence[int]): One for each draw, at least two. Defaults to (0, 1, 2).
        k (int): Neighbors; all labeled images vote if they are fewer. Defaults to 20.
        temperature (float): Of the vote. Defaults to 0.07.

    Returns:
        FewShotResult: Over the draws.

    Raises:
        UserError: As :func:`pervit_mm.evaluation.knn_accuracy`; if a class has fewer images than ``shots``, or there
            are fewer than two different seeds.
    """
    check_seeds(seeds)
    check_labeled('bank', bank.output, bank.labels)
    top1 = []
    for seed in seeds:
        drawn = draw_shots(bank.labels, shots, seed)
        found = knn_accuracy(bank.output[drawn], bank.labels[drawn], queries.output, queries.labels,
                             (min(k, len(drawn)), ), temperature)
        top1 += found.values()
    return FewShotResult(tuple(top1), mean(top1), stdev(top1))


def measure_features(name: str, bank: Features, queries: Features, k: Sequence[int] = NUM_NEIGHBORS,
                     shots: int | None = 60, seeds: Sequence[int] = (0, 1, 2), full_probe: bool = False) -> Baseline:
    """Measure the outputs of a backbone, or pixels, by k-NN and linear probes.

    Args:
        name (str): What the features are, for the table.
        bank (Features): Of the training images, with labels.
        queries (Features): Of the test images, with labels.
        k (Sequence[int]): Neighbors with the whole bank. Defaults to (10, 20, 100, 200).
        shots (int, optional): Labeled images of each class where labels are few. Defaults to 60, 1 % of Fashion-MNIST;
            None leaves few labels out.
        seeds (Sequence[int]): Of the draws, at least two. Defaults to (0, 1, 2).
        full_probe (bool): Whether to train a linear probe on the whole bank, too. It is slow. Defaults to False.

    Returns:
        Baseline: A row of :func:`baseline_table`.

    Raises:
        UserError: As :func:`pervit_mm.evaluation.knn_accuracy` and :func:`pervit_mm.evaluation.few_shot_probe`.
    """
    knn = knn_accuracy(bank.output, bank.labels, queries.output, queries.labels, k)
    few_k = few_knn = few_probe = None
    if shots is not None:
        few_knn = few_shot_knn(bank, queries, shots, seeds)
        # The probe takes blocks, and the output is the only one here.
        one_bank, one_query = (replace(part, blocks={0: part.output}) for part in (bank, queries))
        few_probe = few_shot_probe(one_bank, one_query, (0, ), shots, seeds)
        few_k = min(FEW_NEIGHBORS, shots * len(bank.labels.unique()))
    full = linear_probe(bank.output, bank.labels, queries.output, queries.labels) if full_probe else None
    return Baseline(name, len(bank.output), len(queries.output), knn, shots, tuple(seeds), few_k, few_knn, few_probe,
                    full)


def baseline_table(rows: Sequence[Baseline]) -> str:
    """Accuracies in percent as a Markdown table, a line for each kind of features; ± is the deviation over draws.

    Args:
        rows (Sequence[Baseline]): Measured with the same ``k``, ``shots`` and ``seeds``.

    Returns:
        str: The table; empty without rows.
    """
    lines = []
    for row in rows:
        line = {'features': row.features, 'bank': row.bank, 'queries': row.queries}
        line.update({f'k-NN, k = {k}': f'{value:.1f}' for k, value in row.knn.items()})
        of_few = () if row.shots is None else ((f'k-NN, k = {row.few_k}', row.few_knn), ('linear probe', row.few_probe))
        for name, few in of_few:
            line[f'{name}, {row.shots} a class'] = f'{few.mean:.1f} ± {few.deviation:.1f}'
        if row.full_probe is not None:
            line['linear probe, all labels'] = f'{row.full_probe.top1:.1f}'
        lines.append(line)
    return markdown_table(lines)


def baseline_records(rows: Sequence[Baseline]) -> list[dict[str, Any]]:
    """Every single accuracy, one for each draw, for :func:`pervit_mm.evaluation.write_csv`.

    Args:
        rows (Sequence[Baseline]): What was measured.

    Returns:
        list[dict]: ``features``, ``bank`` and ``queries`` as in :class:`Baseline`; ``method``, 'knn' or 'linear';
        ``k``; ``shots`` and ``seed``, None with all labels; ``top1`` in percent.
    """
    records = []
    for row in rows:
        found = [('knn', k, None, None, value) for k, value in row.knn.items()]
        of_few = () if row.shots is None else (('knn', row.few_k, row.few_knn), ('linear', None, row.few_probe))
        for method, k, few in of_few:
            found += [(method, k, row.shots, seed, value) for seed, value in zip(row.seeds, few.top1)]
        if row.full_probe is not None:
            found.append(('linear', None, None, None, row.full_probe.top1))
        records += [dict(features=row.features, bank=row.bank, queries=row.queries, method=method, k=k, shots=shots,
                         seed=seed, top1=top1) for method, k, shots, seed, top1 in found]
    return records
