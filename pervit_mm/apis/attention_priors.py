"""Attention priors of Fashion-MNIST: the file, and how well heads find items."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device

from ..analysis.capture import capture
from ..datasets.fashion_scenes import SPLITS
from ..datasets.fashion_scenes_canvas import HAZE, read_idx
from ..evaluation import mask_average_precision
from ..evaluation.features import evaluating, read_batch
from ..selfsup.prior_files import AttentionPrior, foreground_prior
from ..utils.errors import UserError, told
from .named_models import check_device
from .probe import build_loader, build_sets, classifier_with_backbone


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


def score_heads(cfg: Config, checkpoint: str, prior: AttentionPrior, block: int, heads: Sequence[int], *,
                images: int | None = 2000, device: str | None = None) -> dict[str, float]:
    """How well heads of a classifier rank the tokens of items ahead of the ground, on test images of Fashion-MNIST.

    Args:
        cfg (Config): Of a classifier of Fashion-MNIST.
        checkpoint (str): Its path.
        prior (AttentionPrior): An absolute prior, scored beside the heads as if it were attention.
        block (int): Number of the block; negative ones count from the end.
        heads (Sequence[int]): Numbers of the heads.
        images (int, optional): Of the test set, evenly from its first to its last. Defaults to 2000; None takes all.
        device (str, optional): Defaults to None, which takes a GPU if there is one.

    Returns:
        dict[str, float]: Average precision in percent, mean over images: ``heads``, mean over the heads too, of the
        attention that tokens receive; ``prior``; and ``chance``, the share of tokens that are of the item.

    Raises:
        UserError: If the prior is not absolute or for another grid, or the checkpoint doesn't fit.
    """
    if prior.kind != 'absolute':
        raise UserError(f'prior must be absolute to be scored as a map, got a {prior.kind} one')
    model = classifier_with_backbone(cfg, checkpoint).to(check_device(device or get_device()))
    found: dict[str, list[torch.Tensor]] = dict(heads=[], prior=[], chance=[])
    constant = prior.target()
    with evaluating(model):
        for batch in build_loader(cfg, build_sets(cfg, 1, images)[1]):
            pixels = batch['inputs']
            masks = torch.stack(list(pixels))[:, 0] > HAZE  # ahead of the normalization
            inputs, _ = read_batch(model, batch)
            with capture(model, each=lambda one: (one.hw_shape, one.attention.mean(-2))) as record:
                model.backbone(inputs)
            hw_shape, received = record.blocks[block]
            if hw_shape != prior.hw_shape:
                raise UserError(f'prior is for the grid {prior.hw_shape}, and the network has {hw_shape}')
            maps = torch.cat([received[:, list(heads)].cpu(), constant.expand(len(masks), 1, -1),
                              torch.ones(len(masks), 1, constant.numel())], 1)
            scores = mask_average_precision(maps, masks, hw_shape)
            found['heads'].append(scores[:, :-2].mean(1))
            found['prior'].append(scores[:, -2])
            found['chance'].append(scores[:, -1])
    return {name: 100 * float(np.nanmean(torch.cat(values).numpy())) for name, values in found.items()}
