"""Clusters and foreground on FashionScenes: of a pre-training, its start, random weights and raw pixels."""
from pathlib import Path
from typing import NamedTuple

import cv2
import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import Tensor, nn

from ..datasets.fashion_scenes import FASHION_CLASSES
from ..evaluation import Overclustering, class_counts, overclustering_iou, pixel_tokens, recalibrate
from ..evaluation.features import evaluating, read_batch
from ..selfsup.foreground import attention_foreground
from ..selfsup.received_attention import received_attention
from ..utils.errors import UserError
from .building import build_with_preprocessor
from .images import find_images, read_image
from .named_models import check_device
from .scored_backbones import classifier_with_backbone, quiet, random_classifier

#: Tiles that go through the network at a time.
BATCH = 64
#: The ground and ten classes. Label of pixels that are not counted.
NUM_CLASSES, UNCOUNTED = 1 + len(FASHION_CLASSES), 255


class Tiles(NamedTuple):
    """Squares of scenes, all of one size.

    Attributes:
        images (Tensor): ``(n, 3, side, side)`` uint8, BGR.
        labels (Tensor): ``(n, side, side)`` uint8: 0 is the ground, 1 to 10 are the classes, 255 is not counted.
    """
    images: Tensor
    labels: Tensor


def read_tiles(root: str | Path, split: str, side: int = 56, scenes: int | None = None) -> Tiles:
    """Cut scenes into squares of the size of a network's input.

    The last square of a row or column lies at the border of the scene. Pixels that an earlier square has already are
    not counted again.

    Args:
        root (str | Path): Folder of ``tools/prepare_fashion_scenes.py``.
        split (str): Folder of scenes in it, such as 'train' or 'test'.
        side (int): In pixels. Defaults to 56.
        scenes (int, optional): The first so many. Defaults to None, all.

    Returns:
        Tiles: In the order of the scenes.

    Raises:
        UserError: If scenes or label maps are missing, or a scene is smaller than a square.
    """
    folder, images, labels = Path(root) / split, [], []
    if not folder.is_dir():
        raise UserError(f"root={str(root)!r} has no folder '{split}': tools/prepare_fashion_scenes.py draws the scenes")
    for path in find_images(folder)[:scenes]:
        image = torch.from_numpy(read_image(path)).permute(2, 0, 1)
        file = Path(root) / 'labels' / split / path.name
        found = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if found is None or found.shape != image.shape[1:] or min(found.shape) < side:
            raise UserError(f"'{file}' must be a label map of the size of its scene, {tuple(image.shape[1:])}, and "
                            f'at least {side} px a side: draw the scenes anew with tools/prepare_fashion_scenes.py')
        label = torch.from_numpy(found)
        for top in _starts(label.shape[0], side):
            for left in _starts(label.shape[1], side):
                square = label[top:top + side, left:left + side]
                images.append(image[:, top:top + side, left:left + side].contiguous())
                labels.append(square.clone())
                square.fill_(UNCOUNTED)
    return Tiles(torch.stack(images), torch.stack(labels))


def score_overclustering(cfg: Config, weights: str, tiles: Tiles, calibration: Tiles, *,
                         prefix: str = 'teacher.module.backbone.', clusters: int = 50, seed: int = 0,
                         draws: int = 3, device: str | None = None) -> list[Overclustering]:
    """Cluster the tokens of scenes and compare the clusters with the classes.

    Args:
        cfg (Config): Of a pre-training, with the data preprocessor and a PerViT of ``out_type='raw'``.
        weights (str): 'pixels', the pixels of each token in place of features; 'random', random weights; 'start', what
            the backbone's ``init_cfg`` in the config names; or the path of a checkpoint.
        tiles (Tiles): Of the scenes that are scored.
        calibration (Tiles): Of training scenes. BatchNorm of every network gets its statistics from them.
        prefix (str): What the backbone's keys in a checkpoint begin with. Defaults to 'teacher.module.backbone.'.
        clusters (int): Defaults to 50.
        seed (int): Of random weights. Defaults to 0.
        draws (int): Runs of k-means, with the seeds 0, 1, …. Defaults to 3.
        device (str, optional): Defaults to None, which takes a GPU if there is one.

    Returns:
        list[Overclustering]: For each draw.

    Raises:
        UserError: If the weights can't be loaded or the tiles are not whole tokens.
    """
    model = _network(cfg, weights, prefix, seed)
    model.to(check_device(device or get_device()))
    stride = model.backbone.out_stride
    grid = tuple(side // stride for side in tiles.labels.shape[1:])
    counts = torch.cat([class_counts(part, grid, NUM_CLASSES) for part in tiles.labels.split(BATCH)]).flatten(0, 1)
    if weights == 'pixels':
        features = pixel_tokens(tiles.images.float(), stride).flatten(0, 2)
    else:
        recalibrate(model, _batches(calibration), len(calibration.images))
        features = token_features(model, tiles)
    return [overclustering_iou(features, counts, clusters, draw) for draw in range(draws)]


def foreground_precision(cfg: Config, weights: str, tiles: Tiles, calibration: Tiles, *,
                         prefix: str = 'teacher.module.backbone.', seed: int = 0,
                         device: str | None = None) -> tuple[float, float]:
    """Does the attention that makes Leopart's foreground look at items?

    Args:
        cfg (Config): Of a Leopart. Its ``mass`` and ``relative_attention`` are taken.
        weights, tiles, calibration, prefix, seed, device: As for :func:`score_overclustering`, but for 'pixels'.

    Returns:
        tuple[float, float]: Of the tokens in the foreground, and of all tokens, how many show items, in percent. A
        token shows an item if most of its pixels do. NaN if there is no foreground.

    Raises:
        UserError: If ``weights`` is 'pixels', or as :func:`score_overclustering`.
    """
    if weights == 'pixels':
        raise UserError("weights must be of a network, which pays attention, got 'pixels'")
    model = _network(cfg, weights, prefix, seed).to(check_device(device or get_device()))
    recalibrate(model, _batches(calibration), len(calibration.images))
    grid = tuple(side // model.backbone.out_stride for side in tiles.labels.shape[1:])
    taken, items, known = [], [], []
    with evaluating(model), received_attention(model.backbone, model.relative_attention) as seen:
        for batch, labels in zip(_batches(tiles), tiles.labels.split(BATCH)):
            model.backbone(read_batch(model, batch)[0])
            taken.append(attention_foreground(seen.pop(), grid, model.mass).flatten(1).cpu())
            counts = class_counts(labels, grid, NUM_CLASSES)
            known.append(counts.sum(2) > 0)
            items.append(2 * counts[..., 1:].sum(2) > counts.sum(2))
    taken, items, known = torch.cat(taken), torch.cat(items), torch.cat(known)
    return tuple(100 * float(items[chosen].float().mean()) for chosen in (taken & known, known))


def token_features(model: nn.Module, tiles: Tiles) -> Tensor:
    """Features of all tokens of all tiles, ``(n * N, C)`` float32 on the CPU.

    Args:
        model (nn.Module): A pre-training. Its backbone is run in eval mode and left as it was.
        tiles (Tiles): Of scenes.
    """
    with evaluating(model):
        return torch.cat([model.backbone(read_batch(model, batch)[0])[-1].flatten(0, 1).float().cpu()
                          for batch in _batches(tiles)])


def _network(cfg: Config, weights: str, prefix: str, seed: int) -> nn.Module:
    """The model of a config with the weights that a name or a path stands for, see :func:`score_overclustering`."""
    if weights == 'random':
        return random_classifier(cfg, seed)
    if weights not in ('pixels', 'start'):
        return classifier_with_backbone(cfg, weights, prefix)
    model = build_with_preprocessor(cfg)
    if weights == 'start':
        with quiet():
            model.backbone.init_weights()
    return model


def _batches(tiles: Tiles) -> list[dict]:
    """The tiles as a data loader gives them."""
    return [dict(inputs=part, data_samples=None) for part in tiles.images.split(BATCH)]


def _starts(length: int, side: int) -> list[int]:
    """Where squares begin so that they cover a length, the last one at its end."""
    return [*range(0, length - side, side), length - side]
