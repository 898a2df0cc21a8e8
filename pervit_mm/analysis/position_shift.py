"""How far Φp has moved."""
import torch
from torch import Tensor

from ..models import PerViT
from ..utils.errors import UserError


@torch.no_grad()
def position_shares(backbone: PerViT) -> list[Tensor]:
    """Φp with rows that sum to one: what each query would attend to by position alone.

    Attention divides its rows by their sum, so a factor for a whole row of Φp changes nothing. This form is without it.

    Args:
        backbone (PerViT): With a ``position_cfg``.

    Returns:
        list[Tensor]: ``(nH, N, N)`` for each block, on the pretraining grid or the block's window.

    Raises:
        UserError: If the backbone has no Φp.
    """
    log_positions = list(backbone.position_terms(backbone.patch_resolution))
    if any(log_position is None for log_position in log_positions):
        raise UserError('this PerViT has no Φp (position_cfg=None), so nothing of it can move; remove the hook or '
                        'analysis that asks for it')
    return [log_position.float().softmax(-1) for log_position in log_positions]


def position_shift(before: list[Tensor], after: list[Tensor]) -> list[Tensor]:
    """Share of attention by position alone that has gone to other keys.

    It is the total variation distance of the two rows of a query: 0 if nothing has moved, 1 if the queries look at
    other keys only. The mean over queries is given.

    Args:
        before, after (list[Tensor]): Of :func:`position_shares`, ``(nH, N, N)`` for each block.

    Returns:
        list[Tensor]: ``(nH,)`` for each block, from 0 to 1.
    """
    return [(new - old).abs().sum(-1).mean(-1) / 2 for old, new in zip(before, after, strict=True)]
