"""Soft assignments of which every prototype gets an equal share, over all processes."""
import torch
from mmengine.dist import all_gather
from torch import Tensor

from .checks import check_counts, check_positive


@torch.no_grad()
def sinkhorn(logits: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Assign samples to prototypes, each prototype as much as any other (Cuturi 2013; Caron et al. 2020, SwAV).

    The samples of all processes count together. Processes may have different numbers of samples. MMPretrain's
    ``distributed_sinkhorn`` sums over processes only where a prototype has the weight 0, and else lets each process
    balance its own samples. All is computed in logarithms, so no ``epsilon`` overflows.

    Args:
        logits (Tensor): ``(n, K)``, this process's samples.
        epsilon (float): Softness: logits are divided by it. Defaults to 0.05.
        iterations (int): How often prototypes, then samples, are scaled to their shares. Defaults to 3.

    Returns:
        Tensor: ``(n, K)`` in float32, or float64 for such logits. Each row sums to 1; each column, over all processes,
        to n / K the more exactly the more iterations.

    Raises:
        UserError: If ``epsilon`` is not above 0, or ``iterations`` no positive integer.
    """
    check_positive(epsilon=epsilon)
    check_counts('sinkhorn', iterations=iterations)
    log_share = logits.to(torch.promote_types(logits.dtype, torch.float32)) / epsilon
    for _ in range(iterations):
        of_prototypes = torch.stack(all_gather(log_share.logsumexp(0))).logsumexp(0)
        log_share = (log_share - of_prototypes).log_softmax(1)
    return log_share.exp()
