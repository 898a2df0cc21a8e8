"""Correspondences: which token of one image is which token of another."""
import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..utils.errors import UserError, told
from .cosegmentation import fit_clusters

#: A principal component that varies less than this share of the first one is drawn as constant.
_FLAT = 1e-4


def best_buddies(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of two images that are each other's nearest neighbor by cosine similarity.

    Token i of x and token nn1(i) of y are best buddies if nn2(nn1(i)) = i. Source: Amir et al. 2021, "Point
    correspondences".

    Args:
        x (Tensor): Descriptors of one image, ``(..., C)``, such as ``(H, W, C)``. Axes ahead of the last are flattened.
        y (Tensor): Those of the other image, of the same C.

    Returns:
        tuple[Tensor, Tensor]: Pairs ``(P, 2)`` of token numbers in x and y, in the order of x, and their cosine
        similarity ``(P, )``.

    Raises:
        UserError: If C differs.
    """
    if x.shape[-1] != y.shape[-1]:
        raise UserError(f'x and y must have descriptors of one length, got {x.shape[-1]} and {y.shape[-1]}: take the '
                        'same model, block and facet for both')
    x, y = (F.normalize(z.flatten(0, -2).to(torch.promote_types(z.dtype, torch.float32)), dim=1) for z in (x, y))
    similarity = x @ y.T
    values, nearest = similarity.max(dim=1)
    mutual = similarity.argmax(dim=0)[nearest] == torch.arange(len(x), device=x.device)
    return torch.stack((mutual.nonzero()[:, 0], nearest[mutual]), dim=1), values[mutual]


def select_pairs(x: Tensor, y: Tensor, pairs: Tensor, ranks: Tensor, count: int) -> Tensor:
    """Choose some pairs that show different things.

    The joined descriptors of the pairs are clustered with k-means, and the pair of highest rank is taken from each
    cluster. Source: the code of Amir et al. 2021.

    Args:
        x (Tensor): Descriptors of one image, ``(..., C)``.
        y (Tensor): Those of the other image.
        pairs (Tensor): ``(P, 2)`` from :func:`best_buddies`.
        ranks (Tensor): ``(P, )``: the similarity of each pair, or the mean saliency of its two tokens.
        count (int): Pairs that are wanted, at least 1.

    Returns:
        Tensor: ``(count, 2)``, fewer if there are fewer different pairs, highest rank first.

    Raises:
        UserError: If ``count`` is below 1, there is no pair, or scikit-learn isn't installed.
    """
    if type(count) is not int or count < 1:
        raise UserError(f'count must be a number of pairs of at least 1, got {count!r}')
    if not len(pairs):
        raise UserError('pairs must have at least one pair, got none: no two tokens are best buddies')
    joined = torch.cat((x.flatten(0, -2)[pairs[:, 0]], y.flatten(0, -2)[pairs[:, 1]]), dim=1)
    joined = F.normalize(joined.float(), dim=1)
    labels = fit_clusters(joined, min(count, len(joined.unique(dim=0)))).labels_
    order = ranks.argsort(descending=True, stable=True)
    _, first = np.unique(labels[order.cpu().numpy()], return_index=True)  # the highest rank of each cluster
    return pairs[order[torch.from_numpy(np.sort(first)).to(order.device)]]


def token_centers(tokens: Tensor, hw_shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Centers of tokens in a picture.

    Args:
        tokens (Tensor): Token numbers ``(P, )``, row by row.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        size (tuple[int, int]): Picture (h, w) in pixels, which the grid covers.

    Returns:
        np.ndarray: ``(P, 2)`` float, (x, y) in pixels; 0.5 is the center of the first pixel.
    """
    (h, w), (height, width) = hw_shape, size
    tokens = tokens.cpu().numpy()
    return np.stack(((tokens % w + 0.5) * width / w, (tokens // w + 0.5) * height / h), axis=1)


def distinct_colors(count: int) -> np.ndarray:
    """Colors that differ, ``(count, 3)`` RGB uint8: hues in steps of the golden ratio."""
    colors = [colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.85, 1) for number in range(count)]
    return (255 * np.array(colors).reshape(count, 3)).round().astype(np.uint8)


def draw_pairs(first: np.ndarray, second: np.ndarray, points: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """Draw two images side by side, and a line between the two points of each pair.

    Args:
        first (np.ndarray): RGB ``(h, w, 3)``, uint8.
        second (np.ndarray): RGB of the same height.
        points (np.ndarray): ``(P, 2)`` in the first image, (x, y) in pixels, see :func:`token_centers`.
        partners (np.ndarray): ``(P, 2)`` in the second image.

    Returns:
        np.ndarray: RGB picture ``(h, w of both and a gap, 3)``, uint8.
    """
    assert first.shape[0] == second.shape[0], f'{first.shape} and {second.shape} are not side by side'
    height, gap = first.shape[0], max(4, first.shape[0] // 32)
    picture = np.concatenate((first, np.full((height, gap, 3), 255, np.uint8), second), axis=1)
    radius = max(2, height // 64)
    for point, partner, color in zip(points, partners + (first.shape[1] + gap, 0), distinct_colors(len(points))):
        ends = [tuple(int(x) for x in end) for end in (point, partner)]
        cv2.line(picture, *ends, color.tolist(), max(1, radius // 3), cv2.LINE_AA)
        for end in ends:
            cv2.circle(picture, end, radius, color.tolist(), -1, cv2.LINE_AA)
            cv2.circle(picture, end, radius, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def pca_colors(maps: Sequence[Tensor]) -> list[np.ndarray]:
    """Color the tokens of several images by the three main components of all their descriptors together.

    Tokens of like descriptors have like colors, also in different images. Each component is scaled to the whole range
    of its color. So the colors don't tell which component varies most.

    Args:
        maps (Sequence[Tensor]): ``(H, W, C)`` for each image, of the same C.

    Returns:
        list[np.ndarray]: RGB ``(H, W, 3)`` for each image, uint8: first component red, second green, third blue.

    Raises:
        UserError: If there is no image or C differs, or scikit-learn isn't installed.
    """
    if len({x.shape[-1] for x in maps}) != 1:
        raise UserError('maps must be (H, W, C) of at least one image, and of one C, got '
                        f'{[tuple(x.shape) for x in maps]}')
    with told('PCA needs scikit-learn: pip install scikit-learn', ImportError):
        from sklearn.decomposition import PCA
    points = np.concatenate([x.detach().flatten(0, -2).double().cpu().numpy() for x in maps])
    parts = PCA(min(3, *points.shape), svd_solver='full').fit_transform(points)
    low, extent = parts.min(axis=0), np.ptp(parts, axis=0)
    varies = extent > _FLAT * extent[0]
    colors = np.zeros((len(points), 3), np.uint8)
    colors[:, :parts.shape[1]] = np.where(varies, 255 * (parts - low) / np.where(varies, extent, 1), 0).round()
    split = np.split(colors, np.cumsum([x[..., 0].numel() for x in maps])[:-1])
    return [part.reshape(*x.shape[:-1], 3) for part, x in zip(split, maps)]
