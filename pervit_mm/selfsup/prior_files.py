"""Attention priors: where a head should look, as files and as made from shapes or images.

A prior file is an ``.npz`` with these entries, and no others:

- ``version``: the integer 1.
- ``kind``: ``'absolute'`` or ``'relative'``.
- ``hw_shape``: the grid (H, W) in tokens, two integers.
- ``weights``: floating point, at least 0, any scale. Absolute: ``(H, W)``, the weight of each token. Relative:
  ``(2H - 1, 2W - 1)``, the weight of each offset from query to key; the middle is the query itself, and the entry below
  it the key one row further down.
- ``source``: text that says where the prior is from.
"""
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import expand_offsets, offset_distances
from ..utils.atomic_write import replacing
from ..utils.errors import UserError, told
from .checks import check_counts, check_positive

VERSION = 1
KINDS = ('absolute', 'relative')
_ENTRIES = {'version', 'kind', 'hw_shape', 'weights', 'source'}


@dataclass(frozen=True)
class AttentionPrior:
    """Where a head should look.

    Attributes:
        kind (str): 'absolute', the same tokens for every query; or 'relative', keys at offsets from the query.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
        weights (np.ndarray): ``(H, W)`` or ``(2H - 1, 2W - 1)``, at least 0, see the file format above.
        source (str): Where it is from. Defaults to ''.

    Raises:
        UserError: If the kind is unknown, the shape doesn't fit, or a weight is negative or not finite; if an absolute
            prior has no weight at all, or a relative one leaves a query without any key.
    """

    kind: str
    hw_shape: tuple[int, int]
    weights: np.ndarray
    source: str = ''

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f'kind of a prior must be one of {KINDS}, got {self.kind!r}')
        if len(self.hw_shape) != 2 or min(self.hw_shape) < 1:
            raise UserError(f'hw_shape of a prior must be a grid (H, W) in tokens, got {self.hw_shape!r}')
        h, w = self.hw_shape
        shape = (h, w) if self.kind == 'absolute' else (2 * h - 1, 2 * w - 1)
        if self.weights.shape != shape:
            raise UserError(f'weights of a prior of kind {self.kind!r} for the grid {h} x {w} must be {shape}, got '
                            f'{self.weights.shape}')
        if self.weights.dtype.kind != 'f' or not np.isfinite(self.weights).all() or (self.weights < 0).any():
            raise UserError('weights of a prior must be floating point, finite and at least 0: look at how it was made')
        if (self._rows().sum(-1) <= 0).any():
            raise UserError(f'weights of the {self.kind} prior leave a query no key to look at: give more tokens or '
                            'offsets a weight above 0')

    def _rows(self) -> Tensor:
        weights = torch.from_numpy(np.asarray(self.weights, np.float64))
        if self.kind == 'absolute':
            return weights.flatten()
        # The view's first window belongs to the last query.
        return expand_offsets(weights, self.hw_shape).flip(0, 1).flatten(2).flatten(0, 1)

    def target(self) -> Tensor:
        """What the head should give: ``(N,)`` if absolute, ``(N, N)`` with rows for queries if relative.

        Returns:
            Tensor: float32, sums to one over keys.
        """
        rows = self._rows()
        return (rows / rows.sum(-1, keepdim=True)).float()


def read_prior(path: str | Path) -> AttentionPrior:
    """Read a prior file. Nothing in it is run as code.

    Args:
        path (str | Path): The ``.npz`` file.

    Returns:
        AttentionPrior: What it holds.

    Raises:
        UserError: If it is not there, is no such file, has another version, or holds no prior.
    """
    with told(f'prior {str(path)!r} cannot be read: tools/make_attention_prior.py makes one', OSError, ValueError,
              EOFError, zipfile.BadZipFile):
        content = np.load(path, allow_pickle=False)
        entries = {}
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                entries = {name: content[name] for name in content.files}
    if set(entries) != _ENTRIES:
        raise UserError(f'prior {str(path)!r} must be an .npz file with the entries {sorted(_ENTRIES)}, got '
                        f'{sorted(entries)}: tools/make_attention_prior.py makes one')
    if entries['version'].shape or entries['version'] != VERSION:
        raise UserError(f'prior {str(path)!r} has version {entries["version"]}, and this package reads {VERSION}: make '
                        'the file anew')
    if entries['hw_shape'].shape != (2, ) or entries['hw_shape'].dtype.kind != 'i':
        raise UserError(f'hw_shape of prior {str(path)!r} must be two integers, got {entries["hw_shape"]!r}')
    return AttentionPrior(str(entries['kind']), tuple(entries['hw_shape'].tolist()), entries['weights'],
                          str(entries['source']))


def write_prior(prior: AttentionPrior, path: str | Path) -> None:
    """Write a prior file, whole or not at all.

    Args:
        prior (AttentionPrior): The prior.
        path (str | Path): Of the ``.npz`` file, which is made or replaced, in a folder that exists.

    Raises:
        UserError: If the name doesn't end with ``.npz``, or the file cannot be made.
    """
    if Path(path).suffix != '.npz':
        raise UserError(f'path of a prior must end with .npz, got {str(path)!r}')
    with replacing(path) as file:
        np.savez(file, version=VERSION, kind=prior.kind, hw_shape=np.array(prior.hw_shape), weights=prior.weights,
                 source=prior.source)


def gaussian_prior(hw_shape: tuple[int, int], sigma: float) -> AttentionPrior:
    """Look around the query, relative: exp(-r² / 2σ²).

    Args:
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        sigma (float): Deviation σ in tokens.

    Returns:
        AttentionPrior: Relative.
    """
    check_positive(sigma=sigma)
    weights = torch.exp(-offset_distances(hw_shape, 1.).double()**2 / (2 * sigma**2)).numpy()
    return AttentionPrior('relative', tuple(hw_shape), weights, f'Gaussian around the query, sigma {sigma:g} tokens')


def ring_prior(hw_shape: tuple[int, int], inner: float, outer: float) -> AttentionPrior:
    """Look at a ring around the query, relative: 1 where inner <= r <= outer, and 0 elsewhere.

    Args:
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        inner, outer (float): Radii in tokens, 0 <= inner <= outer.

    Returns:
        AttentionPrior: Relative.

    Raises:
        UserError: If a query of the grid has no token in its ring.
    """
    if not 0 <= inner <= outer:
        raise UserError(f'inner and outer must be radii in tokens, 0 <= inner <= outer, got {inner!r} and {outer!r}')
    distances = offset_distances(hw_shape, 1.).double().numpy()
    weights = ((distances >= inner - 1e-6) & (distances <= outer + 1e-6)).astype(np.float64)
    return AttentionPrior('relative', tuple(hw_shape), weights, f'ring around the query, {inner:g} to {outer:g} tokens')


def center_prior(hw_shape: tuple[int, int], sigma: float) -> AttentionPrior:
    """Look at the middle of the image, absolute: exp(-r² / 2σ²) of the distance to the middle.

    Args:
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        sigma (float): Deviation σ in tokens.

    Returns:
        AttentionPrior: Absolute.
    """
    check_positive(sigma=sigma)
    y, x = (np.arange(side) - (side - 1) / 2 for side in hw_shape)
    weights = np.exp(-(y[:, None]**2 + x[None]**2) / (2 * sigma**2))
    return AttentionPrior('absolute', tuple(hw_shape), weights, f'middle of the image, sigma {sigma:g} tokens')


def foreground_prior(masks: np.ndarray, hw_shape: tuple[int, int], source: str = 'mean foreground') -> AttentionPrior:
    """Look where objects are on average, absolute: the share of object pixels in each token, over all images.

    Args:
        masks (np.ndarray): ``(n, h, w)``, Boolean or label maps with 0 for the ground.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        source (str): Says where the masks are from.

    Returns:
        AttentionPrior: Absolute.

    Raises:
        UserError: If there is no mask, or no object pixel.
    """
    masks = np.asarray(masks)
    if masks.ndim != 3 or not len(masks):
        raise UserError(f'masks must be (n, h, w) with at least one mask, got {masks.shape}')
    check_counts('the grid', H=hw_shape[0], W=hw_shape[1])
    mean = torch.from_numpy((masks > 0).mean(0, dtype=np.float64))
    weights = F.adaptive_avg_pool2d(mean[None], tuple(hw_shape))[0].numpy()
    return AttentionPrior('absolute', tuple(hw_shape), weights, source)
