"""SiT: corrupted images are restored, and recognized among others."""
import torch
from mmengine.dist import get_world_size
from mmengine.registry import MODELS
from torch import Tensor

from ..utils.type_names import type_name
from .decoders import check_decoder
from .teacher_student import TeacherStudent


@MODELS.register_module()
class SiT(TeacherStudent):
    """Group masked model learning with contrast (Atito et al. 2021, SiT).

    Of two views of an image the student sees corrupted forms. It restores the corrupted pixels. And it finds the
    image among those of the batch, by what the teacher says about the other view, which the teacher sees whole. The
    corruption happens in the image, so any PerViT will do.

    Args:
        backbone (dict): PerViT with ``out_type='raw'``.
        neck (dict): MMPretrain's ``NonLinearNeck`` on the mean of the tokens, ``with_avg_pool=False``.
        decoder (dict): ``TokenDecoder`` from tokens to pixels.
        head (dict): ``ContrastHead``.
        corruption (dict): ``GroupCorruption``.
        pixel_loss (dict): Of the restored pixels. Defaults to MMPretrain's ``PixelReconstructionLoss`` with
            ``criterion='L1'``. Its ``channel`` is set to the channels of the image.
        pixel_weight (float): λ, weight of the mean pixel loss of both views. The contrast losses of both views are
            added up, as the authors do. Defaults to 5, SiT's on small data sets; theirs on others is 1.
        momentum (float): Share of the old teacher in each update at the start. It rises to 1. Defaults to 0.996.
        data_preprocessor (dict, optional): Defaults to None, MMPretrain's ``SelfSupDataPreprocessor``.
        init_cfg (dict, optional): Defaults to None.

    Raises:
        UserError: As :class:`TeacherStudent`; if the decoder makes other images than the backbone takes; while
            training, if there are not two views of one size.
    """

    def __init__(self, backbone: dict, neck: dict, decoder: dict, head: dict, corruption: dict,
                 pixel_loss: dict = dict(type='mmpretrain.PixelReconstructionLoss', criterion='L1'),
                 pixel_weight: float = 5., momentum: float = 0.996, data_preprocessor: dict | None = None,
                 init_cfg: dict | None = None) -> None:
        super().__init__(backbone, neck, {}, momentum, 2, 2, data_preprocessor, init_cfg)
        self.decoder, self.head = MODELS.build(decoder), MODELS.build(head)
        check_decoder(self.decoder, self.backbone)
        pixel_loss = dict(pixel_loss)
        if type_name(pixel_loss) == 'PixelReconstructionLoss':
            pixel_loss.setdefault('channel', self.backbone.in_channels)
        self.corruption, self.pixel_loss = MODELS.build(corruption), MODELS.build(pixel_loss)
        self.pixel_weight = pixel_weight

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Losses and statistics of a batch.

        Args:
            inputs (list[Tensor]): Two views ``(B, C, h, w)``; more are not used.
            data_samples (list, optional): Not used.

        Returns:
            dict[str, Tensor]: ``contrast_loss``, ``pixel_loss``; ``agreement``, the share of images that the student
            finds, and ``chance``, the share at random.
        """
        views = self.check_views(inputs)[:2]
        corrupted, masks = zip(*(self.corruption(view) for view in views))
        tokens = self.student_tokens(list(corrupted))
        found = self.neck((torch.cat(tokens).mean(1), ))[0].chunk(2)
        with torch.no_grad():
            known = self.teacher.module['neck']((self.teacher_tokens(views).mean(1), ))[0].chunk(2)
        losses, accuracies = zip(*(self.head.loss(found[v], known[1 - v]) for v in (0, 1)))
        restored = [self.decoder(view, image.shape[2:]) for view, image in zip(tokens, views)]
        pixel = [self.pixel_loss(*each) for each in zip(restored, views, masks)]
        return dict(contrast_loss=sum(losses), pixel_loss=self.pixel_weight * sum(pixel) / 2,
                    agreement=sum(accuracies) / 2,
                    chance=accuracies[0].new_tensor(1 / len(views[0]) / get_world_size()))

    def collapsed(self, log: dict[str, float]) -> str | None:
        """Say by what the losses and statistics of an iteration show a collapse, or return None."""
        if log['chance'] <= 1 / 16 and log['agreement'] < 2 * log['chance']:  # small batches are found by chance
            return (f"the student finds {100 * log['agreement']:.1f} % of the images, and chance is "
                    f"{100 * log['chance']:.1f} %: lower the rate or take larger batches")
        return None
