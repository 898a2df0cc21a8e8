"""The loss of SFC's fine-grained network: tokens of two crops that show the same place are alike."""
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from ..checks import check_positive


def tokens_in_same_place(boxes: Tensor, flipped: Tensor, hw_shape: tuple[int, int], threshold: float) -> Tensor:
    """Which tokens of two crops of an image show the same place.

    The centers of the two tokens must be nearer than ``threshold`` times the diagonal of the larger token, all measured
    in the image. Source: Xie et al. 2021 (PixPro), equation 1.

    Args:
        boxes (Tensor): x1, y1, x2, y2 of the crops in pixels of the image, ``(B, 2, 4)``.
        flipped (Tensor): Whether a crop was turned left to right, bool ``(B, 2)``.
        hw_shape (tuple[int, int]): Grid (H, W) of both crops in tokens, N = H * W. If the side of a view is no multiple
            of the stride, centers are off by less than a token.
        threshold (float): In diagonals of a token.

    Returns:
        Tensor: Boolean ``(B, N, N)``, tokens of the first crop by tokens of the second.
    """
    h, w = hw_shape
    start, size = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]  # (B, 2, 2), x ahead of y
    down, right = ((torch.arange(n, device=boxes.device, dtype=boxes.dtype) + 0.5) / n for n in hw_shape)
    right = torch.where(flipped[..., None], 1 - right, right)  # (B, 2, W)
    x = (start[..., :1] + right * size[..., :1])[..., None, :].expand(-1, -1, h, -1)
    y = (start[..., 1:] + down * size[..., 1:])[..., None].expand(-1, -1, -1, w)
    centers = torch.stack((x, y), dim=-1).flatten(2, 3)  # (B, 2, N, 2)
    diagonal = torch.hypot(size[..., 0] / w, size[..., 1] / h).amax(1)  # (B,)
    distance = (centers[:, 0, :, None] - centers[:, 1, None]).square().sum(-1).sqrt()
    return distance < threshold * diagonal[:, None, None]


@MODELS.register_module()
class CorrespondenceHead(BaseModule):
    """-2 · mean cosine over pairs of tokens that show the same place, both ways (Hu et al. 2022, SFC).

    The student predicts from a token of one crop what the teacher says about the tokens of the other crop in the same
    place. The mean is taken over the pairs of an image, then over the images. An image whose crops don't overlap counts
    as 0. So the loss is from -4 to 4.

    Args:
        predictor (dict): MMPretrain's ``NonLinearNeck`` on tokens ``(n, C)``, ``with_avg_pool=False``.
        threshold (float): Largest distance of a pair, in diagonals of the larger token. Defaults to 0.5, SFC's.
        init_cfg (dict, optional): Defaults to None.

    Raises:
        UserError: If ``threshold`` is not above 0.
    """

    def __init__(self, predictor: dict, threshold: float = 0.5, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        check_positive(threshold=threshold)
        self.predictor, self.threshold = MODELS.build(predictor), threshold

    def loss(self, student: Tensor, teacher: Tensor, boxes: Tensor, flipped: Tensor,
             hw_shape: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and statistics.

        Args:
            student (Tensor): Projected tokens of the first crop of each image, then of the second, ``(2 * B, N, C)``.
            teacher (Tensor): The teacher's, without gradient, in the same order.
            boxes (Tensor): See :func:`tokens_in_same_place`.
            flipped (Tensor): See :func:`tokens_in_same_place`.
            hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.

        Returns:
            tuple[Tensor, dict[str, Tensor]]: The loss. ``paired``, the share of tokens of the first crop that have a
            pair. ``likeness``, the mean cosine of tokens that show different places: 1 if all tokens are equal.
        """
        predicted = self.predictor((student.flatten(0, 1), ))[0].view_as(student)
        first, second = F.normalize(predicted.float(), dim=-1).chunk(2)
        known_first, known_second = F.normalize(teacher.float(), dim=-1).chunk(2)
        pairs = tokens_in_same_place(boxes, flipped, hw_shape, self.threshold)
        cosines = (first @ known_second.transpose(1, 2), known_first @ second.transpose(1, 2))  # (B, N, N) each
        number = pairs.sum((1, 2)).clamp_min(1)
        loss = -2 * sum(((cosine * pairs).sum((1, 2)) / number).mean() for cosine in cosines)
        others = ~pairs
        likeness = (cosines[0].detach() * others).sum() / others.sum().clamp_min(1)
        return loss, dict(paired=pairs.any(2).float().mean(), likeness=likeness)
