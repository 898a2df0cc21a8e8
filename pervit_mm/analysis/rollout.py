"""Attention through all blocks at once."""
from collections.abc import Iterable

import torch
from torch import Tensor

from ..utils.errors import UserError


def attention_rollout(attentions: Iterable[Tensor]) -> Tensor:
    """Multiply the attention of all blocks, each with half an identity for its skip connection.

    The product of (A + I) / 2 over the blocks, where A is the mean over the heads. (Abnar and Zuidema 2020, Quantifying
    Attention Flow in Transformers.) It takes skip and branch for equally large, and knows nothing of values
    and FFNs, so it is a picture and no measure of influence.

    Args:
        attentions (Iterable[Tensor]): Attention of each block in the order in which they run, ``(B, nH, N, N)``, rows
            queries with sum one.

    Returns:
        Tensor: ``(B, N, N)``, float32 or wider, rows sum to one. Row i says which tokens of the first block token i of
        the last block comes from.

    Raises:
        UserError: If there is no block, or the blocks have different numbers of tokens.

    Examples:
        >>> from pervit_mm.analysis import capture
        >>> with capture(model, each=lambda block: block.attention.mean(1, keepdim=True)) as record:
        ...     _ = model(images)
        >>> heat = rollout_map(attention_rollout(record.blocks))
    """
    rollout = None
    for index, attention in enumerate(attentions):
        mean = attention.to(torch.promote_types(attention.dtype, torch.float32)).mean(1)
        mixed = (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)) / 2
        if rollout is not None and mixed.shape != rollout.shape:
            raise UserError(f'attentions must have the same images and tokens in every block, got {tuple(mixed.shape)} '
                            f'in block {index} after {tuple(rollout.shape)}; rollout is not defined where the grid '
                            'shrinks between blocks')
        rollout = mixed if rollout is None else mixed @ rollout
    if rollout is None:
        raise UserError('attentions must hold at least one block, got none')
    return rollout


def rollout_map(rollout: Tensor) -> Tensor:
    """How much each token of the first block takes part in the last one, on average over the tokens of the last block.

    The usual map is the row of the class token. A model that pools its tokens by their mean has no such row, so the
    mean over all rows stands in its place. [ours]

    Args:
        rollout (Tensor): ``(B, N, N)`` from :func:`attention_rollout`.

    Returns:
        Tensor: ``(B, N)``, sums to one; 1 / N is the uniform share.
    """
    return rollout.mean(-2)
