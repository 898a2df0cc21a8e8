"""How much of a block's output comes past it, and how much through it."""
import torch
from torch import Tensor
from torch.linalg import vector_norm

from ..utils.errors import UserError


def skip_branch_ratio(skip: Tensor, branch: Tensor) -> Tensor:
    """Norm of the skip connection over the norm of the branch that is added to it, for each image.

    Both norms are Frobenius norms over tokens and channels. (Raghu et al. 2021, Do Vision Transformers See Like
    Convolutional Neural Networks?, section 5.) A block has two such pairs, see
    :attr:`pervit_mm.analysis.BlockRecord.branches`. Where the width changes, skip is what the shortcut gives.

    Args:
        skip (Tensor): ``(B, N, C)``.
        branch (Tensor): ``(B, N, C)``.

    Returns:
        Tensor: ``(B,)``, float32 or wider, without a unit. Above 1 the skip connection is the larger part. Infinite for
        a branch of zeros.

    Raises:
        UserError: If the shapes differ or are not ``(B, N, C)``.

    Examples:
        >>> from pervit_mm.analysis import capture
        >>> with capture(model, attention=False, branches=True) as record:
        ...     _ = model(images)
        >>> ratios = [[skip_branch_ratio(*half) for half in block.branches] for block in record.blocks]
    """
    if skip.dim() != 3 or skip.shape != branch.shape:
        raise UserError('skip and branch must be of one shape (B, N, C), got '
                        f'{tuple(skip.shape)} and {tuple(branch.shape)}')
    wide = torch.promote_types(skip.dtype, torch.float32)
    return vector_norm(skip, dim=(1, 2), dtype=wide) / vector_norm(branch, dim=(1, 2), dtype=wide)
