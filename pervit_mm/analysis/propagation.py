"""Label propagation: carry the mask of a video's first frame through the others, by likeness of features."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..utils.errors import UserError
from .correspondences import distinct_colors

#: Most numbers of a block of similarities, which bounds the memory: 64 MiB in float32.
_MAX_SIMILARITIES = 2**24
#: Most labels of a mask. Soft labels of all frames are kept for each.
MAX_LABELS = 64


@dataclass(frozen=True)
class Protocol:
    """How labels are propagated. A token takes the labels of the tokens in earlier frames that are most like it.

    Attributes:
        frames (int): Frames just before that are looked at, besides the first one.
        radius (float): How far from its own place a token looks, in tokens.
        circular (bool): True for places nearer than ``radius``; False for the window of ±``radius``, edge included.
        limits_first (bool): Whether the radius limits places in the first frame too.
        top (int): Tokens, over all these frames, whose labels are taken.
        temperature (float): Their weights are proportional to exp(cosine similarity / temperature).
    """
    frames: int
    radius: float
    circular: bool
    limits_first: bool
    top: int
    temperature: float = 0.1


#: 'dino': Caron et al. 2021, their eval_video_segmentation.py. 'sfc': Hu et al. 2022, "Semantic-aware fine-grained
#: correspondence", their test_vos.py.
PROTOCOLS = dict(
    dino=Protocol(frames=7, radius=12, circular=False, limits_first=True, top=5),
    sfc=Protocol(frames=20, radius=15, circular=True, limits_first=False, top=15))


def fuse_features(fine: Tensor, semantic: Tensor, weight: float = 1.75) -> Tensor:
    """Join two features of each token. Each is scaled to length 1 first, and the result too.

    Cosine similarity of the result is (weight² · fine + semantic) / (weight² + 1), of the two similarities. Source: Hu
    et al. 2022 (SFC), late fusion with λ = 1.75.

    Args:
        fine (Tensor): ``(..., C1)``, features that tell places apart.
        semantic (Tensor): ``(..., C2)`` of the same tokens, features that tell objects apart.
        weight (float): λ, of ``fine``. Defaults to 1.75.

    Returns:
        Tensor: ``(..., C1 + C2)``.

    Raises:
        UserError: If the tokens are not the same.
    """
    if fine.shape[:-1] != semantic.shape[:-1]:
        raise UserError(f'fine and semantic must be of the same tokens, got {tuple(fine.shape)} and '
                        f'{tuple(semantic.shape)}: take two blocks with one grid')
    return F.normalize(torch.cat((weight * F.normalize(fine, dim=-1), F.normalize(semantic, dim=-1)), dim=-1), dim=-1)


def propagate_labels(features: Tensor, labels: Tensor, protocol: Protocol = PROTOCOLS['dino']) -> Tensor:
    """Propagate the labels of the first frame.

    Frame by frame, each token takes a weighted mean of the labels of tokens in earlier frames. The result is then what
    later frames look at. **Ours**: early frames have fewer frames to look at. SFC repeats the first one instead.

    Args:
        features (Tensor): ``(F, H, W, C)``, frames in order. Their length doesn't matter.
        labels (Tensor): Of the first frame, ``(K, H, W)``, one-hot or soft, see :func:`labels_of_mask`.
        protocol (Protocol): Defaults to ``PROTOCOLS['dino']``.

    Returns:
        Tensor: Soft labels ``(F, K, H, W)``, float32 or wider. They sum to one over K wherever ``labels`` do.

    Raises:
        UserError: If shapes disagree.
    """
    if features.dim() != 4 or labels.dim() != 3 or features.shape[1:3] != labels.shape[1:]:
        raise UserError('features (F, H, W, C) and labels (K, H, W) must have one grid, got '
                        f'{tuple(features.shape)} and {tuple(labels.shape)}')
    count, h, w, _ = features.shape
    wide = torch.promote_types(features.dtype, torch.float32)
    places = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij'), dim=-1).view(-1, 2)
    places = places.to(features.device)
    soft = torch.empty(count, len(labels), h * w, dtype=wide, device=features.device)
    soft[0] = labels.flatten(1).to(soft)
    for frame in range(1, count):
        sources = [0, *range(max(1, frame - protocol.frames), frame)]
        keys = F.normalize(features[sources].flatten(1, 2).to(wide), dim=-1)  # (S, N, C)
        queries = F.normalize(features[frame].flatten(0, 1).to(wide), dim=-1)  # (N, C)
        known = soft[sources].transpose(0, 1).flatten(1)  # (K, S * N)
        step = max(1, _MAX_SIMILARITIES // known.shape[1])
        for start in range(0, h * w, step):
            part = slice(start, start + step)
            similarity = torch.einsum('qc,snc->qsn', queries[part], keys)
            outside = _outside(places[part], places, protocol)
            limited = similarity if protocol.limits_first else similarity[:, 1:]
            limited.masked_fill_(outside[:, None], float('-inf'))
            values, tokens = similarity.flatten(1).topk(min(protocol.top, known.shape[1]))
            weights = (values / protocol.temperature).softmax(dim=1)  # (Q, top)
            soft[frame, :, part] = (known[:, tokens] * weights).sum(dim=-1)
    return soft.unflatten(2, (h, w))


def _outside(queries: Tensor, keys: Tensor, protocol: Protocol) -> Tensor:
    """Which keys are too far, ``(Q, N)``, for places ``(Q, 2)`` and ``(N, 2)``."""
    steps = queries[:, None] - keys[None]
    if protocol.circular:
        return steps.square().sum(dim=-1) >= protocol.radius**2
    return steps.abs().amax(dim=-1) > protocol.radius


def labels_of_mask(mask: np.ndarray, hw_shape: tuple[int, int]) -> tuple[Tensor, np.ndarray]:
    """Soft labels of tokens, from a mask of pixels.

    **Ours**: a token has each label by its share of the token's pixels, so that no small object is lost. DINO takes the
    pixel at the token's center.

    Args:
        mask (np.ndarray): ``(h, w)`` integers, one value for each label, such as 0 for the background.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.

    Returns:
        tuple[Tensor, np.ndarray]: Labels ``(K, H, W)`` float32 that sum to one over K, and the K values, rising.

    Raises:
        UserError: If the mask has another shape, or more than :data:`MAX_LABELS` labels.
    """
    if mask.ndim != 2:
        raise UserError(f'mask must be (h, w) with one value for each label, got shape {mask.shape}: save it as a gray '
                        'or palette PNG')
    values = np.unique(mask)
    if len(values) > MAX_LABELS:
        raise UserError(f'mask must have at most {MAX_LABELS} labels, got {len(values)} values: give a mask of labels, '
                        'not a photo or a smoothed mask')
    one_hot = torch.from_numpy(mask[None] == values[:, None, None]).float()
    return F.interpolate(one_hot[None], size=tuple(hw_shape), mode='area')[0], values


def mask_of_labels(labels: Tensor, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask of pixels, from soft labels of tokens: bilinear, then the strongest label.

    DINO stretches the map of each label to [0, 1] first. We don't, because a label that has left the picture would come
    back.

    Args:
        labels (Tensor): ``(K, H, W)``.
        values (np.ndarray): The K values of :func:`labels_of_mask`.
        size (tuple[int, int]): (h, w) in pixels.

    Returns:
        np.ndarray: ``(h, w)``, of the type of ``values``.
    """
    large = F.interpolate(labels[None], size=tuple(size), mode='bilinear', align_corners=False)[0]
    return values[large.argmax(dim=0).cpu().numpy()]


def propagate_mask(features: Tensor, mask: np.ndarray, protocol: Protocol = PROTOCOLS['dino']) -> Iterator[np.ndarray]:
    """Propagate the mask of the first frame.

    Args:
        features (Tensor): ``(F, H, W, C)``.
        mask (np.ndarray): Of the first frame, ``(h, w)`` integers, see :func:`labels_of_mask`.
        protocol (Protocol): Defaults to that of DINO.

    Yields:
        np.ndarray: The mask of each frame, ``(h, w)``, of the type of ``mask``. That of the first is ``mask`` itself.

    Raises:
        UserError: As :func:`labels_of_mask` and :func:`propagate_labels`.
    """
    labels, values = labels_of_mask(mask, features.shape[1:3])
    yield mask
    for soft in propagate_labels(features, labels, protocol)[1:]:
        yield mask_of_labels(soft, values, mask.shape)


def draw_overlay(picture: np.ndarray, mask: np.ndarray, values: Sequence[int] | np.ndarray) -> np.ndarray:
    """Tint the labels of a mask in a picture. Label 0, the background, stays as it is.

    Args:
        picture (np.ndarray): RGB ``(h, w, 3)``, uint8.
        mask (np.ndarray): ``(h, w)``, with the values below.
        values (Sequence[int]): All labels of the video, so that a label has the same color in each frame.

    Returns:
        np.ndarray: RGB ``(h, w, 3)``, uint8.
    """
    labels = [value for value in values if value != 0]
    tinted = picture.copy()
    for label, color in zip(labels, distinct_colors(len(labels))):
        here = mask == label
        tinted[here] = (picture[here] * 0.5 + color * 0.5).round().astype(np.uint8)
    return tinted
