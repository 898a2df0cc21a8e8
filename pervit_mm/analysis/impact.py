"""How much of the mixed attention position decides, and how much content. All measures here are **ours**."""
import torch
from torch import Tensor

from ..utils.errors import UserError


def _moments(p: Tensor, s: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Variances of p and s and their covariance over keys, under weights that sum to one; each ``(..., N)``.

    A variance that is no more than rounding of a constant is 0.
    """
    found, centered = [], []
    for x in (p, s):
        centered.append(x - (weight * x).sum(dim=-1, keepdim=True))
        variance = (weight * centered[-1]**2).sum(dim=-1)
        rounding = (16 * torch.finfo(x.dtype).eps * x.abs().amax(dim=-1))**2
        found.append(variance.where(variance > rounding, 0.))
    return *found, (weight * centered[0] * centered[1]).sum(dim=-1)


def _jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of rows in nats, ``(..., N)``; at most log 2."""
    middle = (p + q) / 2
    return sum(torch.xlogy(x, x / middle.clamp_min(torch.finfo(x.dtype).tiny)).sum(dim=-1) for x in (p, q)) / 2


def position_impact(log_position: Tensor, scores: Tensor) -> dict[str, Tensor]:
    """Split the mixed attention softmax(s + log Φp) between position and content.

    All are means over queries, of quantities over the keys of a query.

    - ``share``: Var(log Φp) / (Var(log Φp) + Var(s)). Keys that both factors rule out count as much as others.
    - ``weighted_share``: the same with variances under the weights Φa, so that keys that get no attention don't count.
    - ``covariance_share``: Cov(log Φp, log Φp + s) / Var(log Φp + s). This and the same of s sum to 1. It is negative
      where content works against position and wins.
    - ``js_content``, ``js_position``: Jensen-Shannon divergence in nats from Φa to softmax(s) and to the row-normalized
      Φp. The smaller one names the factor that Φa is like. 0 is equal; log 2 = 0.693 has no key in common.

    Args:
        log_position (Tensor): log Φp, ``(nH, N, N)``; minus infinity between tokens of different windows.
        scores (Tensor): s = q·k/√d, ``(B, nH, N, N)``, or any shape ``(..., queries, keys)`` that ``log_position``
            broadcasts to.

    Returns:
        dict[str, Tensor]: Each ``(B, nH)``, the shape of ``scores`` without queries and keys, float32 or wider. NaN if
        neither factor varies over the keys of any query.

    Raises:
        UserError: If the shapes disagree.
    """
    if scores.dim() < 2 or log_position.dim() < 2 or scores.shape[-log_position.dim():] != log_position.shape:
        raise UserError('log_position must be (nH, N, N) and scores (B, nH, N, N), with the same heads and tokens, got '
                        f'{tuple(log_position.shape)} and {tuple(scores.shape)}')
    wide = torch.promote_types(torch.promote_types(log_position.dtype, scores.dtype), torch.float32)
    inside = log_position > float('-inf')
    s, p = scores.to(wide), log_position.to(wide).masked_fill(~inside, 0)
    even = inside.to(wide) / inside.sum(dim=-1, keepdim=True)
    outside = torch.zeros_like(p).masked_fill(~inside, float('-inf'))
    attention, content, position = ((x + outside).softmax(dim=-1) for x in (s + p, s, p))
    shares = {}
    of_position, of_content, covariance = _moments(p, s, even)
    shares['share'] = of_position / (of_position + of_content)
    whole = of_position + of_content + 2 * covariance
    shares['covariance_share'] = (of_position + covariance) / whole.where(of_position + of_content > 0, 0.)
    of_position, of_content, _ = _moments(p, s, attention)
    shares['weighted_share'] = of_position / (of_position + of_content)
    shares['js_content'] = _jensen_shannon(attention, content)
    shares['js_position'] = _jensen_shannon(attention, position.expand_as(attention))
    return {name: value.nanmean(dim=-1) for name, value in shares.items()}
