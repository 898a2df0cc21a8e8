"""The contrastive loss of SiT and MoCo v3."""
import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, get_rank
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from ..checks import check_positive


@MODELS.register_module()
class ContrastHead(BaseModule):
    """InfoNCE: which of the teacher's images is the student's?

    2 T · cross-entropy of cosine / T, with the images of all processes as candidates. MMPretrain's ``MoCoV3Head``
    computes the same behind a predictor, which SiT doesn't have.

    Args:
        temperature (float): T. Defaults to 0.2, SiT's.
        init_cfg (dict, optional): Defaults to None; there is no parameter.

    Raises:
        UserError: If ``temperature`` is not above 0.
    """

    def __init__(self, temperature: float = 0.2, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        check_positive(temperature=temperature)
        self.temperature = temperature

    def loss(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and accuracy.

        Args:
            student (Tensor): Features ``(B, C)``.
            teacher (Tensor): Features ``(B, C)`` of other views of the same images, without gradient.

        Returns:
            tuple[Tensor, Tensor]: The loss, and the share of images that the student finds.
        """
        candidates = torch.cat(all_gather(F.normalize(teacher.float(), dim=-1)))
        logits = F.normalize(student.float(), dim=-1) @ candidates.T / self.temperature
        labels = torch.arange(len(student), device=logits.device) + len(student) * get_rank()
        accuracy = (logits.detach().argmax(-1) == labels).float().mean()
        return 2 * self.temperature * F.cross_entropy(logits, labels), accuracy
