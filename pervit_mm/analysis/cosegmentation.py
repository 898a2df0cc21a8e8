"""Co-segmentation: the part that several images have in common, without training."""
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..utils.errors import UserError, told

#: Mean squared distance, between vectors of length 1, that counts as none.
_NOTHING = 1e-10


class Cosegmentation(NamedTuple):
    """What :func:`cosegment` finds.

    Attributes:
        masks (Tensor): ``(B, H, W)`` bool, True on the common object.
        labels (Tensor): ``(B, H, W)`` long, the cluster of each token.
        votes (Tensor): ``(clusters, )`` long, images in which the cluster is salient.
    """
    masks: Tensor
    labels: Tensor
    votes: Tensor


def fit_clusters(points: Tensor, clusters: int) -> Any:
    """Run k-means with a fixed seed, the best of ten starts.

    Args:
        points (Tensor): ``(P, C)``.
        clusters (int): At most the number of different points.

    Returns:
        sklearn.cluster.KMeans: Fitted. ``labels_`` has the cluster of each point.

    Raises:
        UserError: If scikit-learn isn't installed.
    """
    with told('k-means needs scikit-learn: pip install scikit-learn', ImportError):
        from sklearn.cluster import KMeans
    return KMeans(n_clusters=clusters, n_init=10, random_state=0).fit(points.detach().cpu().numpy())


def elbow_clusters(points: Tensor, elbow: float = 0.975, most: int = 14) -> Tensor:
    """Cluster points with as many clusters as the elbow rule wants.

    One cluster more is tried as long as it lowers the sum of squared distances to less than ``elbow`` times the sum
    before. The first number that doesn't is taken. Source: the code of Amir et al. 2021. **Ours**: once that sum is
    zero, no further cluster is tried.

    Args:
        points (Tensor): ``(P, C)`` of length 1.
        elbow (float): Between 0 and 1. Defaults to 0.975.
        most (int): Most clusters that are tried. Defaults to 14.

    Returns:
        Tensor: ``(P, )`` long, the cluster of each point, on the CPU.

    Raises:
        UserError: If scikit-learn isn't installed.
    """
    before = math.inf
    for clusters in range(1, min(most, len(points)) + 1):
        fit = fit_clusters(points, clusters)
        if fit.inertia_ > elbow * before or fit.inertia_ <= _NOTHING * len(points):
            break
        before = fit.inertia_
    return torch.from_numpy(fit.labels_).long()


def cosegment(descriptors: Tensor, saliency: Tensor, elbow: float = 0.975, votes: float = 0.75) -> Cosegmentation:
    """Find the object that images have in common.

    The descriptors of all images are clustered together. Each image votes for the clusters that are salient in it. The
    clusters with enough votes are the object. Source: Amir et al. 2021, "Part co-segmentation" and their code.
    **Ours**: a cluster is salient in an image if its mean saliency is above the mean of the image. Theirs has a fixed
    threshold for DINO's class token. Their last step, GrabCut on pixels, is left out.

    Args:
        descriptors (Tensor): ``(B, H, W, C)``, see :func:`pervit_mm.analysis.dense_descriptors`.
        saliency (Tensor): ``(B, H, W)``, see :func:`pervit_mm.analysis.saliency`.
        elbow (float): See :func:`elbow_clusters`. Defaults to 0.975.
        votes (float): Share of the images that must vote for a cluster. Defaults to 0.75.

    Returns:
        Cosegmentation: Masks, clusters and votes, on the CPU.

    Raises:
        UserError: If there are fewer than two images, shapes disagree, ``elbow`` or ``votes`` is not from 0 to 1, or
            scikit-learn isn't installed.
    """
    if descriptors.dim() != 4 or descriptors.shape[0] < 2:
        raise UserError('descriptors must be (B, H, W, C) of at least two images, because the object is what images '
                        f'have in common, got {tuple(descriptors.shape)}')
    if saliency.shape != descriptors.shape[:3]:
        raise UserError(f'saliency must be {tuple(descriptors.shape[:3])} as the descriptors are, got '
                        f'{tuple(saliency.shape)}')
    for name, value in dict(elbow=elbow, votes=votes).items():
        if not 0 < value <= 1:
            raise UserError(f'{name} must be above 0 and at most 1, got {value!r}')
    labels = elbow_clusters(F.normalize(descriptors.flatten(0, 2).float(), dim=1), elbow).view(saliency.shape)
    saliency = saliency.cpu()
    counts = torch.zeros(int(labels.max()) + 1, dtype=torch.long)
    for image_labels, image_saliency in zip(labels, saliency):
        for label in image_labels.unique():
            counts[label] += bool(image_saliency[image_labels == label].mean() > image_saliency.mean())
    return Cosegmentation((counts >= math.ceil(votes * len(labels)))[labels], labels, counts)
