"""k nearest neighbors: how good features are without any training."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import UserError
from .features import check_labeled, percent_correct

#: Numbers of neighbors that DINO reports.
NUM_NEIGHBORS = (10, 20, 100, 200)
# Most similarities that are held at once: 64 MiB of float32.
_MOST_SIMILARITIES = 2**24


@torch.no_grad()
def knn_accuracy(bank: Tensor, bank_labels: Tensor, queries: Tensor, query_labels: Tensor,
                 k: Sequence[int] = NUM_NEIGHBORS, temperature: float = 0.07) -> dict[int, float]:
    """Top-1 accuracy of the vote of the k nearest neighbors, each weighted by exp(cosine similarity / temperature).

    Wu et al. 2018 (Unsupervised Feature Learning via Non-Parametric Instance Discrimination, section 3.4), with the
    values of Caron et al. 2021 (DINO). Features are scaled to length one and are not centered.

    Args:
        bank (Tensor): Features of the training images, ``(n, C)``.
        bank_labels (Tensor): Their classes, ``(n,)`` integers from 0.
        queries (Tensor): Features of the test images, ``(m, C)``.
        query_labels (Tensor): Their classes, ``(m,)``.
        k (Sequence[int]): Numbers of neighbors, each at most n. Defaults to (10, 20, 100, 200).
        temperature (float): Above 0. Defaults to 0.07.

    Returns:
        dict[int, float]: Accuracy in percent for each of ``k``. At even votes the lower class wins.

    Raises:
        UserError: If features and labels don't fit together, ``k`` isn't from 1 to n, or the temperature isn't above 0.
    """
    check_labeled('bank', bank, bank_labels)
    check_labeled('query', queries, query_labels)
    if bank.shape[1] != queries.shape[1]:
        raise UserError(f'bank and queries must have the same width, got {bank.shape[1]} and {queries.shape[1]}: '
                        'collect both with the same model')
    steps = sorted(set(k))
    if not steps or steps[0] < 1 or steps[-1] > len(bank) or not all(isinstance(step, int) for step in steps):
        raise UserError(f'k must be integers from 1 to the {len(bank)} images of the bank, got {tuple(k)}: ask for '
                        'fewer neighbors, or take a larger bank')
    if not temperature > 0:
        raise UserError(f'temperature must be above 0, got {temperature}; 0.07 is usual')
    bank = F.normalize(bank.to(torch.promote_types(bank.dtype, torch.float32)), dim=1)
    labels, truth = bank_labels.to(bank.device), query_labels.to(bank.device)
    classes, predicted = int(labels.max()) + 1, {step: [] for step in steps}
    for part in queries.to(bank).split(max(1, _MOST_SIMILARITIES // len(bank))):
        similarity, nearest = (F.normalize(part, dim=1) @ bank.T).topk(steps[-1])
        # Relative to the nearest one: it changes no vote, and exp() can't overflow at a low temperature.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes, start = weights.new_zeros(len(part), classes), 0
        for step in steps:
            votes.scatter_add_(1, labels[nearest[:, start:step]], weights[:, start:step])
            predicted[step].append(votes.argmax(dim=1))
            start = step
    return {step: percent_correct(torch.cat(parts), truth) for step, parts in predicted.items()}
