"""Which tokens the student doesn't see: random blocks, or those that the teacher attends to."""
import math
from collections.abc import Sequence
from numbers import Real

import torch
from mmengine.registry import MODELS
from torch import Tensor

from ..utils.errors import UserError

#: Rectangles in a row that may not fit before the mask of an image is left as it is.
ATTEMPTS = 10


@MODELS.register_module()
class TokenBlockMask:
    """Hide blocks of tokens, as iBOT (Zhou et al. 2022) does after BEiT (Bao et al. 2022).

    An image is masked with probability ``prob``, and then has a limit of ``share * H * W`` tokens, with ``share``
    uniform in ``ratio``. Rectangles are added one at a time:

    - Its area is uniform between ``least = (min(H, W) // 3)**2`` tokens and what is left of the limit, also where less
      is left than ``least``. Its aspect is log-uniform between ``min_aspect`` and ``1 / min_aspect``. Height and width
      are rounded to tokens. Its place is uniform.
    - It is taken if it is smaller than the grid in both directions, and hides at least one token more, and not more
      than are left. Its rounded area may be less than ``least``.
    - The image is done when the limit is reached, or after ten rectangles in a row that were not taken. So the mask may
      hold fewer tokens than the limit, or none.

    Random numbers come from torch's generator on the CPU, whose state runs save and restore.

    Args:
        ratio (Sequence[float]): Smallest and largest share of hidden tokens, ``0 < low <= high < 1``. Defaults to
            (0.1, 0.5).
        prob (float): Probability that an image is masked at all, in [0, 1]. Defaults to 0.5.
        min_aspect (float): Smallest aspect of a rectangle, in (0, 1]. Defaults to 0.3.

    Raises:
        UserError: If an argument is out of range.
    """

    needs_attention = False

    def __init__(self, ratio: Sequence[float] = (0.1, 0.5), prob: float = 0.5, min_aspect: float = 0.3) -> None:
        _check('TokenBlockMask', ratio, prob)
        if not (isinstance(min_aspect, Real) and 0 < min_aspect <= 1):
            raise UserError(f'min_aspect of TokenBlockMask must be above 0 and at most 1, got {min_aspect!r}')
        self.ratio, self.prob, self.min_aspect = tuple(ratio), prob, min_aspect

    def __call__(self, batch: int, hw_shape: tuple[int, int], attention: Tensor | None = None) -> Tensor:
        """Draw masks.

        Args:
            batch (int): Number of images B.
            hw_shape (tuple[int, int]): Grid (H, W) of tokens.
            attention (Tensor, optional): Ignored; :class:`AttentionMask` takes it. Defaults to None.

        Returns:
            Tensor: Boolean ``(B, H, W)`` on the CPU, True for hidden tokens.
        """
        height, width = hw_shape
        least = (min(hw_shape) // 3)**2
        limit = _uniform(self.ratio, batch) * height * width * (torch.rand(batch) < self.prob)
        mask = torch.zeros(batch, height, width, dtype=torch.bool)
        failures = torch.zeros(batch, dtype=torch.long)
        while True:
            left = limit - mask.flatten(1).sum(1)
            open_ = (left > 0) & (failures < ATTEMPTS)
            if not open_.any():
                return mask
            area = least + (left - least) * torch.rand(batch)
            aspect = torch.exp(math.log(self.min_aspect) * (2 * torch.rand(batch) - 1))
            h, w = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
            rows, columns = _interval(h, height), _interval(w, width)
            block = rows[:, :, None] & columns[:, None, :]
            new = (block & ~mask).flatten(1).sum(1)
            taken = open_ & (h < height) & (w < width) & (new > 0) & (new <= left)
            mask |= block & taken[:, None, None]
            failures = torch.where(taken, 0, failures + 1)


@MODELS.register_module()
class AttentionMask:
    """Hide the tokens that the teacher attends to most: AttMask (Kakogeorgiou et al. 2022).

    One share r is drawn for the batch. Each image is masked with probability ``prob``: its ``int(N * r)`` most attended
    tokens are hidden. With ``hint``, ``int(show * r * N)`` of its ``int(show * N)`` most attended tokens, drawn at
    random, are then shown again. Of 49 tokens and r = 0.3 that makes 14 hidden, and 1 of the top 4 shown again.

    Random numbers come from torch's generator on the CPU, whose state runs save and restore.

    Args:
        ratio (Sequence[float]): Smallest and largest r, ``0 < low <= high < 1``; (r, r) fixes it. Defaults to
            (0.1, 0.5).
        prob (float): Probability that an image is masked at all, in [0, 1]. Defaults to 0.5.
        show (float): Share of the tokens among which hints are drawn, and share of the hidden ones that become hints,
            in (0, 1). Defaults to 0.1.
        hint (bool): Whether hints are shown: AttMask-Hint, or else AttMask-High. Defaults to True.

    Raises:
        UserError: If an argument is out of range; while running, if there is no attention or it doesn't fit the grid.
    """

    needs_attention = True

    def __init__(self, ratio: Sequence[float] = (0.1, 0.5), prob: float = 0.5, show: float = 0.1,
                 hint: bool = True) -> None:
        _check('AttentionMask', ratio, prob)
        if not (isinstance(show, Real) and 0 < show < 1):
            raise UserError(f'show of AttentionMask must be above 0 and below 1, got {show!r}')
        self.ratio, self.prob, self.show, self.hint = tuple(ratio), prob, show, hint

    def __call__(self, batch: int, hw_shape: tuple[int, int], attention: Tensor | None = None) -> Tensor:
        """Draw masks.

        Args:
            batch (int): Number of images B.
            hw_shape (tuple[int, int]): Grid (H, W) of tokens.
            attention (Tensor): ``(B, H * W)``, the attention that each token receives, in the teacher.

        Returns:
            Tensor: Boolean ``(B, H, W)`` on the device of the attention, True for hidden tokens.
        """
        height, width = hw_shape
        if attention is None:
            raise UserError("attention=None for AttentionMask: give the attention that tokens receive in the teacher's "
                            'last block, (B, H * W), or use TokenBlockMask, which needs none')
        if attention.shape != (batch, height * width):
            raise UserError(f'attention for AttentionMask must be (B, H * W) = ({batch}, {height * width}), got '
                            f'{tuple(attention.shape)}')
        tokens = height * width
        # In Python's floats, whose products with the number of tokens are cut as the authors cut them.
        low, high = self.ratio
        ratio = low + (high - low) * float(torch.rand((), dtype=torch.float64))
        chosen = torch.rand(batch, 1) < self.prob
        hidden = int(ratio * tokens)
        mask = torch.zeros(batch, tokens, dtype=torch.bool, device=attention.device)
        order = attention.argsort(dim=1, descending=True)
        mask.scatter_(1, order[:, :hidden], True)
        if self.hint:
            # With r below show, some of the top tokens are not hidden and would be no hint. The minimum is ours.
            top = min(int(self.show * tokens), hidden)
            drawn = torch.rand(batch, top).argsort(dim=1)[:, :int(self.show * ratio * tokens)]
            mask.scatter_(1, order.gather(1, drawn.to(order.device)), False)
        return (mask & chosen.to(mask.device)).view(batch, height, width)


def _check(name: str, ratio: Sequence[float], prob: float) -> None:
    """Raise UserError if a range of shares or a probability is none."""
    if not (isinstance(ratio, (list, tuple)) and len(ratio) == 2 and all(isinstance(share, Real) for share in ratio)
            and 0 < ratio[0] <= ratio[1] < 1):
        raise UserError(f'ratio of {name} must be two shares, 0 < low <= high < 1, such as (0.1, 0.5), got {ratio!r}')
    if not (isinstance(prob, Real) and 0 <= prob <= 1):
        raise UserError(f'prob of {name} must be from 0 to 1, got {prob!r}')


def _uniform(limits: tuple[float, float], number: int) -> Tensor:
    """``number`` draws between two limits, float64: a share times a number of tokens is cut to a whole number."""
    return limits[0] + (limits[1] - limits[0]) * torch.rand(number, dtype=torch.float64)


def _interval(length: Tensor, side: int) -> Tensor:
    """Boolean ``(B, side)``: in each row one run of True of the given length at a random place; lengths are cut."""
    room = (side - length).clamp_min(0) + 1
    start = (room * torch.rand(len(length))).long()[:, None]
    places = torch.arange(side)
    return (places >= start) & (places < start + length[:, None])
