"""Attention priors of Fashion-MNIST: the file, and how well heads find items."""
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device

from ..analysis.capture import capture
from ..analysis.recorders import find_recorders
from ..datasets.fashion_scenes import SPLITS
from ..datasets.fashion_scenes_canvas import HAZE, read_idx
from ..evaluation import mask_average_precision
from ..evaluation.features import evaluating, read_batch
from ..selfsup.prior_files import AttentionPrior, foreground_prior
from ..utils.errors import UserError, told
from .labeled_sets import build_loader, build_sets, check_recalibration, recalibrate_by
from .named_models import check_device
from .scored_backbones import classifier_or_random


def fashion_foreground(root: str | Path, hw_shape: tuple[int, int] = (7, 7)) -> AttentionPrior:
    """Where the items of the training images of Fashion-MNIST are on average.

    Args:
        root (str | Path): Folder of the extracted files.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens. Defaults to (7, 7), PerViT-nano's.

    Returns:
        AttentionPrior: Absolute.

    Raises:
        UserError: If the images are not there.
    """
    path = Path(root) / SPLITS['train'][0]
    with told(f'{str(path)!r} cannot be read: tools/prepare_fashion_mnist.py puts it in place', OSError):
        images = read_idx(path)
    return foreground_prior(images > HAZE, hw_shape, 'mean foreground of the training images of Fashion-MNIST')


@dataclass(frozen=True)
class HeadScores:
    """Average precision in percent, mean over images, with which attention ranks tokens of items ahead of the ground.

    Attributes:
        heads (tuple[float, ...]): Of each head of the block.
        together (float): Of the mean over the heads.
        chance (float): The share of tokens that are of the item.
        prior (float, optional): Of a prior, which is the same for all images; None if there is none.
    """

    heads: tuple[float, ...]
    together: float
    chance: float
    prior: float | None = None


def score_heads(cfg: Config, checkpoint: str | None, *, prior: AttentionPrior | None = None, block: int = -1,
                prefix: str = 'backbone.', recalibration: int = 0, images: int | None = 2000,
                device: str | None = None) -> HeadScores:
    """How well the heads of a block find items, on test images of Fashion-MNIST: by the attention that tokens receive.

    Args:
        cfg (Config): Of a classifier of Fashion-MNIST.
        checkpoint (str, optional): Path, of a classifier or of a pre-training. None takes random weights of seed 0.
        prior (AttentionPrior, optional): An absolute one, scored beside the heads as if it were attention. Defaults to
            None.
        block (int): Number of the block; negative ones count from the end. Defaults to -1.
        prefix (str): What the backbone's keys in the checkpoint begin with. Defaults to 'backbone.'.
        recalibration (int): Training images from which BatchNorm gets its statistics anew. Defaults to 0, none.
        images (int, optional): Of the test set, evenly from its first to its last. Defaults to 2000; None takes all.
        device (str, optional): Defaults to None, which takes a GPU if there is one.

    Returns:
        HeadScores: The scores.

    Raises:
        UserError: If the prior is not absolute or for another grid, there is no such block, a number is out of range,
            or the checkpoint doesn't fit.
    """
    if prior is not None and prior.kind != 'absolute':
        raise UserError(f'prior must be absolute to be scored as a map, got a {prior.kind} one')
    check_recalibration(recalibration)
    model = classifier_or_random(cfg, checkpoint, prefix).to(check_device(device or get_device()))
    num = len(find_recorders(model.backbone))
    if type(block) is not int or not -num <= block < num:
        raise UserError(f'block must be the number of one of {num} blocks, from {-num} to {num - 1}, got {block!r}')
    bank, queries = build_sets(cfg, None, images)
    recalibrate_by(cfg, model, bank, recalibration)
    found = []
    with evaluating(model):
        for batch in build_loader(cfg, queries):
            masks = torch.stack(list(batch['inputs']))[:, 0] > HAZE  # ahead of the normalization
            inputs, _ = read_batch(model, batch)
            with capture(model, each=lambda one: (one.hw_shape, one.attention.mean(-2))) as record:
                model.backbone(inputs)
            hw_shape, received = record.blocks[block]
            if prior is not None and hw_shape != prior.hw_shape:
                raise UserError(f'prior is for the grid {prior.hw_shape}, and the network has {hw_shape}')
            maps = [received, received.mean(1, keepdim=True), torch.ones_like(received[:, :1])]
            if prior is not None:
                maps.append(prior.target().to(received).expand(len(masks), 1, -1))
            found.append(mask_average_precision(torch.cat(maps, 1), masks, hw_shape))
    values, heads = (100 * torch.cat(found).nanmean(0)).tolist(), received.shape[1]
    return HeadScores(tuple(values[:heads]), *values[heads:])
