"""The loss of Leopart: tokens predict the clusters that the teacher finds at their place in another view."""
import math
from collections.abc import Callable, Sequence

import torch
from mmengine.dist import all_gather, all_reduce, get_rank, get_world_size
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from ...utils.errors import UserError
from ..checks import check_counts, check_positive
from ..regions import align_regions
from ..sinkhorn import sinkhorn


@MODELS.register_module()
class ClusterHead(BaseModule):
    """Dense clustering between views (Ziegler and Asano 2022, Leopart).

    The teacher's tokens of a view, and a queue of earlier foreground tokens, are assigned to K clusters by
    :func:`pervit_mm.selfsup.sinkhorn.sinkhorn`. Assignments of a view q and predictions of a view v ≠ q are read on a
    grid of the same points in the part of the image that both views show. The loss is the cross-entropy at foreground
    points, the mean over these points, then over all pairs. Samples, queue and points are those of all processes.

    Ours: a point is foreground if its value in the mask is 1 up to rounding, and the queue is compared with the
    teacher's prototypes. The authors ask for 1 exactly, and take the student's.

    Args:
        out_channels (int): Number K of clusters, that of the neck. Defaults to 300, Leopart's.
        in_channels (int): Width of the normed features that are kept, the neck's ``bottleneck_channels``. Defaults to
            256.
        num_views (int): Views of the teacher, each with a queue of its own. Defaults to 2.
        queue_size (int): Tokens in each queue, of all processes together; 0 for no queue. A queue is used once it is
            full. Defaults to 8192.
        per_image (int): New tokens in a queue for each image of the batch. Defaults to 10.
        epsilon (float): Softness of the assignments. Defaults to 0.05.
        iterations (int): Of Sinkhorn's algorithm. Defaults to 3.
        student_temp (float): Temperature of the predictions. Defaults to 0.1.
        roi_size (int): Side of the grid of points. Defaults to 7.
        init_cfg (dict, optional): Defaults to None; there is no parameter.

    Raises:
        UserError: If a number is out of range.
    """

    def __init__(self, out_channels: int = 300, in_channels: int = 256, num_views: int = 2, queue_size: int = 8192,
                 per_image: int = 10, epsilon: float = 0.05, iterations: int = 3, student_temp: float = 0.1,
                 roi_size: int = 7, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        check_counts('ClusterHead', out_channels=out_channels, in_channels=in_channels, num_views=num_views,
                     per_image=per_image, iterations=iterations, roi_size=roi_size)
        if out_channels < 2:
            raise UserError('out_channels of ClusterHead must be at least 2, got 1: one cluster tells nothing apart')
        if type(queue_size) is not int or queue_size < 0:
            raise UserError(f'queue_size of ClusterHead must be a number of tokens of at least 0, got {queue_size!r}')
        check_positive(epsilon=epsilon, student_temp=student_temp)
        self.out_channels, self.in_channels, self.num_views = out_channels, in_channels, num_views
        self.queue_size, self.per_image, self.roi_size = queue_size, per_image, roi_size
        self.epsilon, self.iterations, self.student_temp = epsilon, iterations, student_temp
        # Equal on all processes, so that the checkpoint of one process has all of it.
        self.register_buffer('queue', torch.zeros(num_views, queue_size, in_channels))
        self.register_buffer('filled', torch.zeros(num_views, dtype=torch.long))

    @torch.no_grad()
    def assign(self, points: Sequence[Tensor], compare: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Assign tokens to clusters.

        Args:
            points (Sequence[Tensor]): Normed features ``(B, N, C)`` of the teacher for each of its views.
            compare (Callable): From features ``(..., C)`` to logits ``(..., K)``, the teacher's cosines.

        Returns:
            list[Tensor]: ``(B, N, K)`` for each view, which sum to 1 over clusters.
        """
        found = []
        for view, own in enumerate(points):
            samples = own.flatten(0, 1)
            if self.queue_size and self.filled[view] == self.queue_size:
                # Each process brings its share. Which tokens these are doesn't matter.
                samples = torch.cat([samples, self.queue[view, get_rank()::get_world_size()].to(samples)])
            shares = sinkhorn(compare(samples), self.epsilon, self.iterations)
            found.append(shares[:own.shape[0] * own.shape[1]].unflatten(0, own.shape[:2]))
        return found

    @torch.no_grad()
    def store(self, points: Sequence[Tensor], foreground: Sequence[Tensor]) -> None:
        """Put random foreground tokens into the queues; the oldest ones leave.

        Args:
            points (Sequence[Tensor]): As for :meth:`assign`.
            foreground (Sequence[Tensor]): Boolean ``(B, N)`` for each view.
        """
        for view, (own, chosen) in enumerate(zip(points, foreground)):
            most = min(self.per_image * len(own), self.queue_size // get_world_size())
            own = own[chosen]
            drawn = torch.randperm(len(own))[:most]  # by the generator on the CPU, whose state runs save and restore
            new = _gather_rows(own[drawn.to(own.device)].to(self.queue.dtype))
            self.queue[view] = torch.cat([new, self.queue[view]])[:self.queue_size]
            self.filled[view] = (self.filled[view] + len(new)).clamp_max(self.queue_size)

    def loss(self, student: Sequence[Tensor], assignments: Sequence[Tensor], foreground: Sequence[Tensor],
             regions: Tensor) -> Tensor:
        """Mean cross-entropy at foreground points over pairs of different views.

        Args:
            student (Sequence[Tensor]): Logits ``(B, K, H, W)`` for each view; the first ones are the teacher's.
            assignments (Sequence[Tensor]): ``(B, K, H, W)`` for each view of the teacher.
            foreground (Sequence[Tensor]): Boolean ``(B, H, W)`` for each view of the teacher.
            regions (Tensor): Of :func:`pervit_mm.selfsup.regions.overlap_regions`, ``(B, V, V, 4)``.

        Returns:
            Tensor: The loss. A pair without foreground counts as 0.
        """
        sums, counts = [], []
        for q, (shares, mask) in enumerate(zip(assignments, foreground)):
            # Both at once: (B, V, K + 1, size, size).
            known = align_regions(torch.cat([shares, mask[:, None].to(shares)], dim=1), regions[:, q], self.roi_size)
            for v, logits in enumerate(student):
                if v == q:
                    continue
                seen = align_regions(logits, regions[:, v, q][:, None], self.roi_size)[:, 0]
                target, inside = known[:, v, :-1], known[:, v, -1] > 1 - 1e-4
                cross_entropy = -(target * (seen / self.student_temp).log_softmax(1)).sum(1)
                sums.append((cross_entropy * inside).sum())
                counts.append(inside.sum())
        count = torch.stack(counts).to(sums[0])
        # DDP averages gradients. With the mean count they are those of the joined batch.
        all_reduce(count, op='mean')
        return (torch.stack(sums) / count.masked_fill(count == 0, 1)).mean()

    @torch.no_grad()
    def statistics(self, student: Tensor, assignments: Tensor, foreground: Tensor) -> dict[str, Tensor]:
        """What shows that nothing is learned.

        Args:
            student (Tensor): Logits ``(B, N, K)`` of a view.
            assignments (Tensor): ``(B, N, K)`` of the same view.
            foreground (Tensor): Boolean ``(B, N)`` of the same view.

        Returns:
            dict[str, Tensor]: ``entropy``, the mean entropy of the assignments as a share of ln K; ``agreement``, the
            share of foreground tokens for which student and teacher prefer the same cluster; ``foreground``, the share
            of tokens that are foreground.
        """
        equal = student.argmax(-1) == assignments.argmax(-1)
        return dict(
            entropy=torch.special.entr(assignments).sum(-1).mean() / math.log(self.out_channels),
            agreement=(equal & foreground).sum() / foreground.sum().clamp_min(1),
            foreground=foreground.float().mean())


def _gather_rows(rows: Tensor) -> Tensor:
    """Rows ``(n, C)`` of all processes in one tensor, equal on all of them; n may differ between processes."""
    numbers = [int(number) for number in all_gather(torch.tensor([len(rows)], device=rows.device))]
    padded = rows.new_zeros(max(numbers), rows.shape[1])
    padded[:len(rows)] = rows
    return torch.cat([part[:number] for part, number in zip(all_gather(padded), numbers)])
