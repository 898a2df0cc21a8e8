"""How alike the tokens of an image are."""
import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import UserError


def token_uniformity(tokens: Tensor) -> Tensor:
    """Mean cosine of all pairs of different tokens of an image.

    (Ghiasi et al. 2022, What do Vision Transformers Learn?, section 4, ask how much of an image the tokens keep apart.
    This number for it is ours.) With tokens u of length one the sum over all pairs is ‖Σu‖², and a token with itself
    gives 1, so the mean over the pairs i ≠ j is (‖Σu‖² - N) / (N (N - 1)), without an N x N matrix.

    Args:
        tokens (Tensor): ``(..., N, C)``, N at least 2. A token of zeros has cosine 0 with all others.

    Returns:
        Tensor: ``(...)``, float32 or wider, without a unit. 1 if all tokens have the same direction, -1 / (N - 1) at
        least.

    Raises:
        UserError: If there are fewer than two tokens.
    """
    if tokens.dim() < 2 or tokens.shape[-2] < 2:
        raise UserError(f'tokens must be (..., N, C) with at least 2 tokens N, got the shape {tuple(tokens.shape)}')
    n = tokens.shape[-2]
    units = F.normalize(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), dim=-1)
    own = units.square().sum((-2, -1))  # N, less the tokens of zeros
    return (units.sum(-2).square().sum(-1) - own) / (n * (n - 1))
