"""How well features of pre-trained networks follow items through generated sequences, without any training."""
import copy
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import Tensor
from torchvision.transforms.functional import rgb_to_grayscale

from ..datasets import FashionSequences, ItemSequence
from ..evaluation import follow_objects, pixel_tokens, recalibrate
from ..evaluation.features import evaluating
from ..utils.errors import UserError
from .configs import input_shape
from .named_models import check_device
from .scored_backbones import classifier_with_backbone, random_classifier
from .subject import Subject


def training_frames(sequences: FashionSequences, count: int = 64, frames: int = 4) -> list[np.ndarray]:
    """Frames of the training items, from which BatchNorm of a network gets its statistics.

    Args:
        sequences (FashionSequences): Of the training items.
        count (int): Number of sequences. Defaults to 64.
        frames (int): Frames of each, evenly from the first to the last. Defaults to 4.

    Returns:
        list[np.ndarray]: ``frames`` batches ``(count, h, w, 3)``, uint8. Frames of one sequence are much alike, so each
        batch has one of each sequence.

    Raises:
        UserError: If ``sequences`` are of test items.
    """
    if sequences.split != 'train':
        raise UserError(f"sequences must be of the training items, split 'train', got {sequences.split!r}: the test "
                        'items are for scores alone')
    drawn = [sequences.sequence(index).frames for index in range(count)]
    chosen = np.linspace(0, len(drawn[0]) - 1, frames).round().astype(int)
    return [np.stack([video[number] for video in drawn]) for number in chosen]


def open_network(cfg: Config, checkpoint: str | int, batches: Sequence[np.ndarray],
                 prefix: str = 'teacher.module.backbone.', distance_scale: str = 'fixed',
                 device: str | None = None) -> Subject:
    """A pre-trained PerViT for frames that are larger than its training images.

    Networks from Fashion-MNIST know no textured ground. So the statistics of BatchNorm are computed anew, for all
    networks alike.

    Args:
        cfg (Config): Of the pre-training.
        checkpoint (str | int): Path or ``pervit_mm://`` name of its checkpoint; or a seed, which draws random weights.
        batches (Sequence[np.ndarray]): RGB frames for the statistics of BatchNorm, see :func:`training_frames`.
        prefix (str): What the backbone's keys in the checkpoint begin with. Defaults to that of a teacher.
        distance_scale (str): What distance means on the larger grid, 'fixed' or 'grid', see
            :class:`pervit_mm.models.PerViT`. Defaults to 'fixed'.
        device (str, optional): Defaults to None, which takes a GPU if there is one.

    Returns:
        Subject: The network, in eval mode.

    Raises:
        UserError: As :func:`pervit_mm.apis.scored_backbones.classifier_with_backbone`.
    """
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.distance_scale = distance_scale
    if isinstance(checkpoint, int):
        name, model = f'random weights (seed {checkpoint})', random_classifier(cfg, checkpoint)
    else:
        name, model = checkpoint, classifier_with_backbone(cfg, checkpoint, prefix)
    model.eval()
    model.backbone.out_type = 'featmap'
    device = check_device(device or get_device())
    subject = Subject(name, cfg, model.to(device), device)
    recalibrate(model, ((frame_inputs(subject, frames), None) for frames in batches), sum(map(len, batches)))
    return subject


def gray_pixels(frames: np.ndarray) -> Tensor:
    """RGB frames ``(F, h, w, 3)``, uint8, in gray, ``(F, 1, h, w)`` float32 from 0 to 255."""
    return rgb_to_grayscale(torch.from_numpy(frames).permute(0, 3, 1, 2)).float()


def frame_inputs(subject: Subject, frames: np.ndarray) -> Tensor:
    """RGB frames ``(F, h, w, 3)``, uint8, as a network takes them: normalized ``(F, C, h, w)``, gray if C is 1."""
    gray = input_shape(subject.cfg)[0] == 1
    pixels = gray_pixels(frames) if gray else torch.from_numpy(frames).permute(0, 3, 1, 2).flip(1).float()
    return subject.normalize(pixels.to(subject.device))


def frame_features(subject: Subject, frames: np.ndarray) -> Tensor:
    """Features ``(F, H, W, C)`` of RGB frames ``(F, h, w, 3)``: the last output of the backbone, behind its norm."""
    with evaluating(subject.model):
        return subject.backbone(frame_inputs(subject, frames))[-1].permute(0, 2, 3, 1)


def pixel_features(sequences: Iterable[ItemSequence], size: int, stride: int = 4) -> Iterator[Tensor]:
    """Gray pixels as features of tokens, minus the mean of the first frame: what a network has to beat.

    Args:
        sequences (Iterable[ItemSequence]): The sequences.
        size (int): Side of the square whose pixels describe a token, see :func:`pervit_mm.evaluation.pixel_tokens`.
        stride (int): Height and width of a token in pixels. Defaults to 4, that of PerViT-nano.

    Yields:
        Tensor: Of each sequence, ``(F, H, W, size * size)``.
    """
    for sequence in sequences:
        pixels = gray_pixels(sequence.frames)
        # All cosines of positive numbers are near 1.
        yield pixel_tokens(pixels - pixels[0].mean(), stride, size)


def score_sequences(sequences: Sequence[ItemSequence], features: Iterable[Tensor | None]) -> dict[str, float]:
    """Follow the items of sequences by their features, by the protocol of SFC.

    Args:
        sequences (Sequence[ItemSequence]): At least one with a ground that drifts, and one whose ground stands still.
        features (Iterable[Tensor | None]): Of each sequence, ``(F, H, W, C)``; None copies the first mask.

    Returns:
        dict[str, float]: In percent. ``J``, region similarity, mean over the items of all sequences; ``J, still`` and
        ``J, drifting``, of the sequences with such a ground.
    """
    of_ground: dict[bool, list[float]] = {False: [], True: []}
    for sequence, found in zip(sequences, features, strict=True):
        of_ground[sequence.drifts] += follow_objects(found, sequence.owners).values()
    means = [100 * float(np.mean(scores)) for scores in ([*of_ground[False], *of_ground[True]], *of_ground.values())]
    return dict(zip(('J', 'J, still', 'J, drifting'), means))
