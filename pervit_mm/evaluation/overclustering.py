"""Do tokens of one class lie together? Clusters of tokens, more than there are classes, against label maps."""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import UserError, told

#: Principal components that are clustered, and starts of k-means of which the best is taken. Leopart's evaluation has
#: 50 and 5.
COMPONENTS, STARTS = 50, 3


@dataclass(frozen=True)
class Overclustering:
    """How well clusters of tokens cover the classes.

    Attributes:
        miou (float): Mean of ``iou``, in percent.
        iou (Tensor): Intersection over union of each class that has pixels, in percent, float64. 0 for a class that no
            cluster was matched with.
        matches (Tensor): The class of each cluster, ``(clusters, )`` int64.
    """

    miou: float
    iou: Tensor
    matches: Tensor


def class_counts(labels: Tensor, hw_shape: tuple[int, int], num_classes: int) -> Tensor:
    """Pixels of each class in each token.

    Args:
        labels (Tensor): Label maps ``(B, h, w)``, integers. Labels that are no class, such as 255, are not counted.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens. h and w are multiples of it.
        num_classes (int): Classes, from 0.

    Returns:
        Tensor: ``(B, N, num_classes)`` int64.

    Raises:
        UserError: If the label maps are not whole tokens.
    """
    if labels.dim() != 3 or labels.shape[1] % hw_shape[0] or labels.shape[2] % hw_shape[1]:
        raise UserError(f'labels must be (B, h, w) with multiples of the grid {tuple(hw_shape)} as h and w, got '
                        f'{tuple(labels.shape)}: crop or pad the label maps')
    height, width = (side // tokens for side, tokens in zip(labels.shape[1:], hw_shape))
    parts = labels.long().unflatten(2, (-1, width)).unflatten(1, (-1, height)).transpose(2, 3).flatten(1, 2).flatten(2)
    known = (parts >= 0) & (parts < num_classes)
    return F.one_hot(parts.where(known, num_classes), num_classes + 1).sum(2)[..., :-1]


def overclustering_iou(features: Tensor, counts: Tensor, clusters: int = 50, seed: int = 0,
                       sample: int = 50000) -> Overclustering:
    """Cluster tokens by k-means, match each cluster with a class, and compare with the label maps.

    Features are standardized and reduced to their 50 first principal components, as in Leopart's evaluation (Ziegler
    and Asano 2022). A cluster is matched with the class of most of its pixels; several clusters may have one class. All
    pixels of a token belong to its cluster.

    Args:
        features (Tensor): Of n tokens, ``(n, C)``.
        counts (Tensor): Pixels of each class in each token, ``(n, classes)``, see :func:`class_counts`.
        clusters (int): K. Defaults to 50.
        seed (int): Draws the sample and the starts of k-means. Defaults to 0.
        sample (int): Tokens on which components and centers are fitted. Defaults to 50000.

    Returns:
        Overclustering: Over all tokens. Classes without a pixel are left out.

    Raises:
        UserError: If there are fewer tokens than clusters, features and counts don't fit together, no pixel is counted,
            or scikit-learn isn't installed.
    """
    if features.dim() != 2 or counts.dim() != 2 or len(features) != len(counts) or not counts.sum():
        raise UserError('features must be (n, C) with counts (n, classes) of the same n tokens, not all of them 0, got '
                        f'{tuple(features.shape)} and {tuple(counts.shape)}')
    if type(clusters) is not int or not 1 <= clusters <= min(len(features), sample):
        raise UserError(f'clusters must be from 1 to the number of tokens, {min(len(features), sample)}, got '
                        f'{clusters!r}')
    labels = _cluster(features, clusters, seed, sample)
    of_clusters = torch.zeros(clusters, counts.shape[1], dtype=torch.float64)
    of_clusters.index_add_(0, labels, counts.double().cpu())
    matches = of_clusters.argmax(1)
    # Rows: the class that was found. Columns: the class of the label map.
    confusion = torch.zeros(counts.shape[1], counts.shape[1], dtype=torch.float64).index_add_(0, matches, of_clusters)
    hits, found, there = confusion.diag(), confusion.sum(1), confusion.sum(0)
    iou = 100 * (hits / (found + there - hits))[there > 0]
    return Overclustering(iou.mean().item(), iou, matches)


def _cluster(features: Tensor, clusters: int, seed: int, sample: int) -> Tensor:
    """The cluster of each token, ``(n, )`` int64 on the CPU."""
    with told('overclustering needs scikit-learn: pip install scikit-learn', ImportError):
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    drawn = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:sample]
    points = features.detach().float().cpu()
    fit = make_pipeline(StandardScaler(), PCA(min(COMPONENTS, points.shape[1], len(drawn)), random_state=seed),
                        KMeans(clusters, n_init=STARTS, random_state=seed)).fit(points[drawn].numpy())
    return torch.from_numpy(fit.predict(points.numpy())).long()
