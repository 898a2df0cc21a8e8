"""Similarity of the features of two layers: linear CKA, unbiased, over batches."""
from collections.abc import Iterable

import torch
from torch import Tensor

from ..utils.errors import UserError


def u_centered_gram(x: Tensor) -> Tensor:
    """Linear Gram matrix of one batch with a diagonal of zeros, U-centered.

    U-centered means that every row and every column sums to zero, though the diagonal is zero. (Song et al. 2012,
    Feature Selection via Dependence Maximization, equation 5; the form with U-centering is that of Székely and Rizzo
    2014.)

    Args:
        x (Tensor): Features of n examples, ``(n, p)``, or ``(n, N, C)`` and more axes, which are flattened.

    Returns:
        Tensor: ``(n, n)``, float32 or wider.

    Raises:
        UserError: If there are fewer than four examples, or ``x`` has no axis of features.
    """
    if x.dim() < 2:
        raise UserError(f'x must be features (n, p) of n examples, got the shape {tuple(x.shape)}; add the missing '
                        'axis')
    n = x.shape[0]
    if n < 4:
        raise UserError(f'unbiased CKA needs at least 4 examples in every batch, got {n}; use larger batches, or leave '
                        'out a last batch that is smaller')
    x = x.flatten(1)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    # The mean changes no entry of the result. Without it, products of small differences keep their digits. In float64
    # it is exact where all examples are equal, so that nothing is left of them.
    exact = x.double()
    x = (exact - exact.mean(0)).to(x.dtype)
    gram = (x @ x.T).fill_diagonal_(0)
    rows = gram.sum(1) / (n - 2)
    gram = gram - rows[:, None] - rows[None, :] + rows.sum() / (n - 1)
    return gram.fill_diagonal_(0)


def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """Unbiased estimate HSIC₁ of the dependence of two sets of features (Song et al. 2012, equation 5).

    Args:
        k (Tensor): ``(..., n, n)`` from :func:`u_centered_gram`.
        l (Tensor): ``(..., n, n)`` of the same n examples. Leading axes are broadcast.

    Returns:
        Tensor: ``(...)``. It is zero on average for independent features, so it may be negative.
    """
    n = k.shape[-1]
    return (k * l).sum((-2, -1)) / (n * (n - 3))


class CKAMatrix:
    """CKA of every layer of one model with every layer of the same or another model, gathered batch by batch.

    Minibatch CKA of Nguyen, Raghu and Kornblith 2021 (equations 2 and 3): HSIC₁ of all batches is added up, and CKA is
    taken from the sums. One batch gives CKA of that batch. Several batches agree with CKA of all examples together only
    in expectation. Each Gram matrix is made once.

    Examples:
        >>> matrix = CKAMatrix()
        >>> for images in batches:
        ...     matrix.update(layers_of_a(images), layers_of_b(images))
        >>> matrix.result()  # (layers of a, layers of b)
    """

    def __init__(self) -> None:
        self._cross: Tensor | None = None
        self._self_a: Tensor | None = None
        self._self_b: Tensor | None = None

    @torch.no_grad()
    def update(self, features_a: Iterable[Tensor], features_b: Iterable[Tensor] | None = None) -> 'CKAMatrix':
        """Add one batch.

        Args:
            features_a (Iterable[Tensor]): Features ``(n, ...)`` of each layer for the same n examples, n at least 4.
                The axes after the first one are flattened. A generator holds one layer at a time.
            features_b (Iterable[Tensor], optional): Those of the other model. Defaults to None, which compares
                ``features_a`` with itself.

        Returns:
            CKAMatrix: Itself.

        Raises:
            UserError: If the batch has fewer than four examples, the layers have different numbers of examples, or the
                number of layers differs from that of the batches before.
        """
        grams_b = None if features_b is None else [u_centered_gram(x) for x in features_b]
        return self.update_grams([u_centered_gram(x) for x in features_a], grams_b)

    @torch.no_grad()
    def update_grams(self, grams_a: Iterable[Tensor], grams_b: Iterable[Tensor] | None = None) -> 'CKAMatrix':
        """Add one batch whose Gram matrices are there already.

        Args:
            grams_a (Iterable[Tensor]): ``(n, n)`` from :func:`u_centered_gram` for each layer.
            grams_b (Iterable[Tensor], optional): Those of the other model. Defaults to None, which compares
                ``grams_a`` with itself.

        Returns:
            CKAMatrix: Itself.

        Raises:
            UserError: As :meth:`update`.
        """
        a = _stack(grams_a, 'features_a')
        b = a if grams_b is None else _stack(grams_b, 'features_b')
        if a.shape[1] != b.shape[1]:
            raise UserError(f'features_a and features_b must be of the same examples, got {a.shape[1]} and '
                            f'{b.shape[1]} of them')
        b, n = b.to(a), a.shape[1]
        # HSIC₁ of all pairs as one matrix product, without the (layers of a, layers of b, n, n) in between.
        cross, self_a, self_b = a.flatten(1) @ b.flatten(1).T / (n * (n - 3)), hsic(a, a), hsic(b, b)
        if self._cross is None:
            self._cross, self._self_a, self._self_b = cross, self_a, self_b
            return self
        if cross.shape != self._cross.shape:
            raise UserError(f'every batch must have the same layers, got {tuple(cross.shape)} layers after batches of '
                            f'{tuple(self._cross.shape)}')
        self._cross, self._self_a, self._self_b = (
            self._cross + cross, self._self_a + self_a, self._self_b + self_b)
        return self

    def result(self) -> Tensor:
        """CKA of all batches so far.

        Returns:
            Tensor: ``(layers of a, layers of b)``. 1 means the same features up to rotation, one scale and a shift.
            Independent features give about 0, so values may be slightly negative. NaN where all examples have the same
            features, because CKA isn't defined there.

        Raises:
            UserError: If there was no batch.
        """
        if self._cross is None:
            raise UserError('CKA has seen no batch yet; call update(x, y) first')
        # Two roots, not the root of the product: the product of two large sums may overflow float32.
        return self._cross / self._self_a.sqrt()[:, None] / self._self_b.sqrt()[None, :]


class UnbiasedCKA:
    """CKA of two layers, gathered batch by batch; :class:`CKAMatrix` for one pair.

    Examples:
        >>> import torch
        >>> x = torch.randn(8, 5)
        >>> UnbiasedCKA().update(x, 3 * x + 1).result()
        tensor(1.0000)
    """

    def __init__(self) -> None:
        self._matrix = CKAMatrix()

    def update(self, x: Tensor, y: Tensor) -> 'UnbiasedCKA':
        """Add one batch.

        Args:
            x (Tensor): Features ``(n, p)`` of n examples, n at least 4.
            y (Tensor): Features ``(n, q)`` of the same examples.

        Returns:
            UnbiasedCKA: Itself.

        Raises:
            UserError: If there are fewer than four examples, or x and y have different numbers of them.
        """
        self._matrix.update([x], [y])
        return self

    def result(self) -> Tensor:
        """CKA of all batches so far, a tensor without axes, see :meth:`CKAMatrix.result`."""
        return self._matrix.result()[0, 0]


def cka_matrix(features_a: Iterable[Tensor], features_b: Iterable[Tensor] | None = None) -> Tensor:
    """CKA of every pair of layers on one batch.

    Args:
        features_a (Iterable[Tensor]): Features ``(n, ...)`` of each layer, n at least 4.
        features_b (Iterable[Tensor], optional): Those of the other model for the same examples. Defaults to None, which
            compares ``features_a`` with itself.

    Returns:
        Tensor: ``(layers of a, layers of b)``, see :meth:`CKAMatrix.result`.

    Raises:
        UserError: As :meth:`CKAMatrix.update`.
    """
    return CKAMatrix().update(features_a, features_b).result()


def _stack(grams: Iterable[Tensor], name: str) -> Tensor:
    """``(layers, n, n)`` of Gram matrices, after a check that all are of the same examples."""
    grams = list(grams)
    sizes = sorted({gram.shape[0] for gram in grams})
    if len(sizes) != 1:
        raise UserError(f'{name} must be a list of layers for the same examples, got '
                        + (f'layers of {sizes} examples' if sizes else 'an empty list'))
    return torch.stack(grams)
