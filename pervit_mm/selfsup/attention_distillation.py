"""How far two networks differ in where they look: regularizers against forgetting."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..models import PerViT
from ..utils.errors import UserError
from .attention_prior import divergence
from .block_maps import BlockMaps
from .checks import check_positive

MAPS = ('attention', 'functional')
POOLS = ('queries', 'keys', 'both')


def pool_maps(maps: Tensor, pool: str) -> Tensor:
    """Sum maps over an axis, and normalize what is left of an image to length one.

    Args:
        maps (Tensor): ``(B, nH, N, M)``: M keys, or M channels of a functional map.
        pool (str): 'queries' sums over N, 'keys' over M, and 'both' puts the two sums side by side.

    Returns:
        Tensor: ``(B, nH * M)``, ``(B, nH * N)``, or ``(B, nH * (M + N))``.
    """
    axes = dict(queries=(2, ), keys=(3, ), both=(2, 3))[pool]
    return F.normalize(torch.cat([maps.sum(axis).flatten(1) for axis in axes], dim=1), dim=1)


def map_distance(old: Tensor, new: Tensor, pool: str = 'both', symmetric: bool = False) -> Tensor:
    """Distance of two maps (Pelosin et al. 2022, Towards Exemplar-Free Continual Learning in Vision Transformers).

    Asymmetric: ‖ReLU(old - new)‖₂ of the pooled maps. So the new network pays where it looks less than the old one, and
    not where it looks more. Symmetric: ‖old - new‖₂ of the pooled squares.

    Args:
        old, new (Tensor): ``(B, nH, N, M)``.
        pool (str): See :func:`pool_maps`. Defaults to 'both'.
        symmetric (bool): Defaults to False.

    Returns:
        Tensor: One value, the mean over images. It is 0 for equal maps.
    """
    if symmetric:
        difference = pool_maps(old.square(), pool) - pool_maps(new.square(), pool)
    else:
        difference = F.relu(pool_maps(old, pool) - pool_maps(new, pool))
    return torch.linalg.vector_norm(difference, dim=1).mean()


@MODELS.register_module()
class MapDistillation(nn.Module):
    """Keep maps near those of an old network: attention and functional regularization (Pelosin et al. 2022).

    The mean of :func:`map_distance` over all blocks that run, times a weight. The authors' code normalizes maps ahead
    of the difference only with an option; without it their asymmetric loss is nearly constant. Here it always does.

    Args:
        maps (str): 'attention': q·kᵀ/√d ahead of the softmax, without Φp. 'functional': attention·v. Defaults to
            'attention'.
        pool (str): 'queries', 'keys' or 'both'; channels take the place of keys in functional maps. Defaults to 'both'.
        symmetric (bool): Defaults to False.
        loss_weight (float): μ. Defaults to 1.

    Raises:
        UserError: If an argument is none of the allowed ones.
    """

    def __init__(self, maps: str = 'attention', pool: str = 'both', symmetric: bool = False,
                 loss_weight: float = 1.) -> None:
        super().__init__()
        for name, value, allowed in (('maps', maps, MAPS), ('pool', pool, POOLS)):
            if value not in allowed:
                raise UserError(f'{name} of MapDistillation must be one of {allowed}, got {value!r}')
        check_positive(loss_weight=loss_weight)
        self.maps, self.pool, self.symmetric, self.loss_weight = maps, pool, symmetric, loss_weight

    def recorded(self, backbone: PerViT) -> dict[str, Sequence[int]]:
        """What :func:`pervit_mm.selfsup.block_maps.record_blocks` has to keep, as its arguments."""
        return {'content' if self.maps == 'attention' else 'output': range(backbone.out_indices[-1] + 1)}

    def forward(self, old: Sequence[BlockMaps], new: Sequence[BlockMaps]) -> Tensor:
        """The loss of two forwards of the same images.

        Args:
            old, new (Sequence[BlockMaps]): The blocks of each.

        Returns:
            Tensor: One value.
        """
        distances = [map_distance(self._map(before).detach(), self._map(after), self.pool, self.symmetric)
                     for before, after in zip(old, new, strict=True)]
        return self.loss_weight * torch.stack(distances).mean()

    def _map(self, record: BlockMaps) -> Tensor:
        return record.scores() if self.maps == 'attention' else record.output.float()


@MODELS.register_module()
class PositionDistillation(nn.Module):
    """Keep Φp near that of an old network, without an image (**ours**).

    KL(old ‖ new) of the rows of Φp, each normalized to sum one, because a factor of a row cancels in attention. Mean
    over queries, heads and blocks with Φp, times a weight. Φp depends on the grid and the weights alone, so the old
    network never sees an image for it.

    Args:
        loss_weight (float): Defaults to 1.
    """

    def __init__(self, loss_weight: float = 1.) -> None:
        super().__init__()
        check_positive(loss_weight=loss_weight)
        self.loss_weight = loss_weight

    def forward(self, old: Sequence[Tensor | None], new: Sequence[Tensor | None]) -> Tensor:
        """The loss.

        Args:
            old, new (Sequence[Tensor, optional]): log Φp ``(nH, N, N)`` of each block that runs; None without Φp.

        Returns:
            Tensor: One value.

        Raises:
            UserError: If no block has Φp.
        """
        pairs = [(before, after) for before, after in zip(old, new, strict=True) if after is not None]
        if not pairs:
            raise UserError('position distillation needs blocks with Φp, got none: leave it out, or give the backbone '
                            'a position_cfg')
        return self.loss_weight * torch.stack([divergence(before.detach().softmax(-1), after)
                                               for before, after in pairs]).mean()
