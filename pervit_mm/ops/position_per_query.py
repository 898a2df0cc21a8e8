"""From the hidden offset maps to log Φp: the part of the position network that needs work per query.

Norm, ReLU, convolution, norm and log-sigmoid run on a slice of queries at a time, for all blocks together, with a
backward of their own. Autograd would save several tensors of D·N·(H + 2)·(W + 2) values for each block. Here only the
normalized logits are saved, nH·N·N values. Backward recomputes the larger tensors slice by slice: on the CPU in the
processor's cache, elsewhere in slices so large that a window's grid takes one (:mod:`pervit_mm.ops.devices`).

The convolution is one matrix product over channels, for all k² taps at once, followed by k² shifted additions. The keys
of a query stay laid out in rows of W + 2p throughout, so a shift by a tap is one offset into flat memory. The shift
also brings in values from the neighboring row or query. They land on the margin, which is cut off. On the CPU this is
faster than convolution kernels: they are made for many output channels, and the position network has only nH.

These are two custom operators and no autograd function: a compiler takes an operator as it is, and would unroll the
loops of a function.
"""
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .derivatives import differentiable_gradients
from .distance import expand_offsets, fold_offsets
from .position_plain import plain_query_position
from .precision import without_autocast, without_tf32

#: Index that takes all keys of a query.
KEYS = (slice(None), slice(None))


def _hidden(windows: Tensor, factor: Tensor | None, summand: Tensor | None) -> Tensor:
    """First norm and ReLU of windows ``(L, D, r, c, H + 2p, W + 2p)``; factor and summand are ``(L, D, r, c)``."""
    # Into a contiguous tensor. On their own, both operations keep the order of the windows' strides in memory, and the
    # products over channels would need a copy.
    hidden = windows.new_empty(windows.shape)
    if factor is None:
        return torch.clamp_min(windows, 0, out=hidden)
    return torch.addcmul(summand[..., None, None], windows, factor[..., None, None], out=hidden).relu_()


def _tap_matrix(weight: Tensor) -> Tensor:
    """Convolution weight ``(L, nH, D, k, k)`` as ``(L, k² * nH, D)``."""
    return weight.permute(0, 3, 4, 1, 2).flatten(1, 3)


def _tap_shifts(kernel: int, pitch: int) -> list[int]:
    """How far ahead in flat memory each of k² taps reads, in reading order."""
    return [i * pitch + j for i in range(kernel) for j in range(kernel)]


def _add_taps(products: Tensor, shifts: list[int]) -> Tensor:
    """Sum ``(L, k², nH, T)`` over the taps, each read ahead by its shift: ``(L, nH, T)``, in place of the first tap."""
    total, length = products[:, 0], products.shape[-1]
    for tap, shift in enumerate(shifts[1:], 1):
        total[..., :length - shift].add_(products[:, tap, :, shift:])
    return total


def _spread_taps(grad: Tensor, shifts: list[int]) -> Tensor:
    """Gradient of :func:`_add_taps`: ``(L, nH, S + T)``, where S zeros lead, the last shift, to ``(L, k² * nH, T)``."""
    length = grad.shape[-1] - shifts[-1]
    return torch.stack([grad[..., shifts[-1] - shift:][..., :length] for shift in shifts], 1).flatten(1, 2)


def _share(rows: Tensor | None, cols: Tensor | None, queries: tuple, hw_shape: tuple[int, int]) -> Tensor | float:
    """Share of each key in the mean and variance of the last norm, for a slice of r x c queries.

    Args:
        rows, cols (Tensor, optional): Shares along each axis, ``(H, H)`` and ``(W, W)``, queries first. None if all
            keys count alike.
        queries (tuple): The slice, as :attr:`_Slice.queries`.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.

    Returns:
        Tensor | float: ``(r, c, H, W)``; one number for all keys, 1 / (H * W), if they count alike.
    """
    if rows is None:
        return 1 / (hw_shape[0] * hw_shape[1])
    return torch.einsum('ik,jl->ijkl', rows[queries[1]], cols[queries[2]])


def _sum_keys(x: Tensor) -> Tensor:
    return x.sum((-2, -1), keepdim=True)


def _by_head(x: Tensor) -> Tensor:
    """View of ``(L, nH)`` that broadcasts against ``(L, nH, r, c, H, W)``."""
    return x[..., None, None, None, None]


def _log_sigmoid(x: Tensor) -> Tensor:
    """min(x, 0) - log(1 + exp(-\\|x\\|)), as precise as an addition to the scores needs it.

    torch's own log1p and logsigmoid also keep relative precision near zero, but take seven times as long on the CPU.
    """
    return x.clamp_max(0).sub_(x.abs().neg_().exp_().add_(1).log_())


class _Slice(NamedTuple):
    """One rectangle of queries, as an index into two kinds of tensors. See :func:`expand_offsets` for why they differ.

    Attributes:
        windows (tuple): Index ``(..., rows, columns)`` of tensors whose query axes count windows, which run backwards.
        queries (tuple): Index ``(..., rows, columns, keys, keys)`` of tensors whose query axes count queries.
    """

    windows: tuple
    queries: tuple


def _slices(hw_shape: tuple[int, int], queries_each: int) -> Iterator[_Slice]:
    """Cut the grid into rectangles of at most ``queries_each`` queries: whole rows, or parts of one."""
    h, w = hw_shape
    rows_each, cols_each = max(1, queries_each // w), min(w, queries_each)
    for top in range(0, h, rows_each):
        bottom = min(top + rows_each, h)
        for left in range(0, w, cols_each):
            right = min(left + cols_each, w)
            yield _Slice((..., slice(top, bottom), slice(left, right)),
                         (..., slice(h - bottom, h - top), slice(w - right, w - left), *KEYS))


@torch.library.custom_op(
    'pervit_mm::query_position', mutates_args=(),
    schema='(Tensor hidden, Tensor? factor, Tensor? summand, Tensor weight, Tensor bias, Tensor? gamma, Tensor? beta, '
           'Tensor? rows, Tensor? cols, int[] hw_shape, float eps, int queries_each, bool keep) '
           '-> (Tensor, Tensor, Tensor)')
@without_tf32()
def query_position(hidden, factor, summand, weight, bias, gamma, beta, rows, cols, hw_shape, eps, queries_each, keep):
    """log Φp of all queries from the hidden offset maps; called by :func:`pervit_mm.ops.log_positions`.

    Differentiable in all tensors except rows and cols, any number of times.

    Args:
        hidden, factor, summand, weight, bias, gamma, beta, rows, cols, hw_shape, eps: As
            :func:`pervit_mm.ops.position_plain.plain_query_position`, which computes the same; ``hidden`` in float32.
        queries_each (int): Queries in a slice.
        keep (bool): Whether to return the normalized logits, because backward may follow.

    Returns:
        tuple[Tensor, Tensor, Tensor]: log Φp ``(L, nH, H, W, H, W)``, queries first; then what backward needs: the
        normalized logits of the same shape (empty unless ``keep``) and the last norm's factor ``(L, nH, H, W, 1, 1)``.
    """
    h, w = hw_shape
    blocks, heads, _, kernel, _ = weight.shape
    windows = expand_offsets(hidden, hw_shape, kernel // 2)
    matrix = _tap_matrix(weight)
    log_position = hidden.new_empty(blocks, heads, h, w, h, w)
    normed = torch.empty_like(log_position) if keep else hidden.new_empty(0)
    inverse = hidden.new_ones(blocks, heads, h, w, 1, 1)
    for part in _slices(hw_shape, queries_each):
        x = _hidden(windows[part.windows + KEYS], *(t if t is None else t[part.windows] for t in (factor, summand)))
        products = torch.bmm(matrix, x.flatten(2)).unflatten(1, (kernel**2, heads))
        logits = _add_taps(products, _tap_shifts(kernel, x.shape[-1])).view(blocks, heads, *x.shape[2:])
        logits = logits[..., :h, :w].flip(2, 3).add_(_by_head(bias))
        z = logits
        if gamma is not None:
            share = _share(rows, cols, part.queries, hw_shape)
            logits.sub_(_sum_keys(logits * share))
            inverse[part.queries] = torch.rsqrt(_sum_keys(logits.square() * share) + eps)
            logits.mul_(inverse[part.queries])
            z = torch.addcmul(_by_head(beta), logits, _by_head(gamma))
        if keep:
            normed[part.queries] = logits
        log_position[part.queries] = _log_sigmoid(z)
    return log_position, normed, inverse


@query_position.register_fake
def _(hidden, factor, summand, weight, bias, gamma, beta, rows, cols, hw_shape, eps, queries_each, keep):
    h, w = hw_shape
    log_position, inverse = (hidden.new_empty(*weight.shape[:2], h, w, *keys) for keys in ((h, w), (1, 1)))
    return log_position, torch.empty_like(log_position) if keep else hidden.new_empty(0), inverse


@torch.library.custom_op(
    'pervit_mm::query_position_backward', mutates_args=(),
    schema='(Tensor grad, Tensor normed, Tensor inverse, Tensor hidden, Tensor? factor, Tensor? summand, '
           'Tensor weight, Tensor? gamma, Tensor? beta, Tensor? rows, Tensor? cols, int[] hw_shape, int queries_each) '
           '-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)')
@without_tf32()
def query_position_backward(grad, normed, inverse, hidden, factor, summand, weight, gamma, beta, rows, cols, hw_shape,
                            queries_each):
    """Gradients of hidden, factor, summand, weight, bias, gamma and beta.

    That of an argument that is None has no meaning.
    """
    h, w = hw_shape
    blocks, heads, _, kernel, _ = weight.shape
    windows = expand_offsets(hidden, hw_shape, kernel // 2)
    matrix = _tap_matrix(weight)
    dhidden, dmatrix = torch.zeros_like(hidden), torch.zeros_like(matrix)
    dfactor, dsummand = (hidden.new_empty(0 if t is None else t.shape) for t in (factor, summand))
    dbias, dgamma, dbeta = (hidden.new_zeros(blocks, heads) for _ in range(3))
    for part in _slices(hw_shape, queries_each):
        y = normed[part.queries]
        # Through log-sigmoid, whose slope is sigmoid(-z), then the last norm.
        z = y if gamma is None else torch.addcmul(_by_head(beta), y, _by_head(gamma))
        dlogits = grad[part.queries] * z.neg().sigmoid_()
        if gamma is not None:
            total, slope = _sum_keys(dlogits), _sum_keys(dlogits * y)
            dbeta.add_(total.sum((2, 3, 4, 5)))
            dgamma.add_(slope.sum((2, 3, 4, 5)))
            share = _share(rows, cols, part.queries, hw_shape)
            dlogits.sub_(torch.addcmul(total, y, slope).mul_(share)).mul_(inverse[part.queries] * _by_head(gamma))
        dbias.add_(dlogits.sum((2, 3, 4, 5)))
        # Through the convolution: shifted copies, then the transposed product.
        window = windows[part.windows + KEYS]
        x = _hidden(window, *(t if t is None else t[part.windows] for t in (factor, summand)))
        shifts = _tap_shifts(kernel, x.shape[-1])
        padded = x.new_zeros(blocks, heads, shifts[-1] + x[0, 0].numel())
        padded[..., shifts[-1]:].view(blocks, heads, *x.shape[2:])[..., :h, :w] = dlogits.flip(2, 3)
        dproducts = _spread_taps(padded, shifts)
        dmatrix.baddbmm_(dproducts, x.flatten(2).transpose(1, 2))
        dx = torch.bmm(matrix.transpose(1, 2), dproducts).view_as(x).mul_(x.sign_())  # x >= 0: its sign is ReLU's slope
        if factor is not None:
            dsummand[part.windows] = dx.sum((-2, -1))
            dfactor[part.windows] = (dx * window).sum((-2, -1))
            dx.mul_(factor[part.windows][..., None, None])
        # Each window back to where it lies in the map.
        places = tuple(slice(side.start, side.stop - 1 + keys) for side, keys in zip(part.windows[1:], dx.shape[-2:]))
        fold_offsets(dx, dhidden[(..., *places)])
    dweight = dmatrix.unflatten(1, (kernel, kernel, heads)).permute(0, 3, 4, 1, 2).contiguous()
    return dhidden, dfactor, dsummand, dweight, dbias, dgamma, dbeta


@query_position_backward.register_fake
def _(grad, normed, inverse, hidden, factor, summand, weight, gamma, beta, rows, cols, hw_shape, queries_each):
    norm1 = (hidden.new_empty(0 if t is None else t.shape) for t in (factor, summand))
    by_head = (hidden.new_empty(weight.shape[:2]) for _ in range(3))
    return torch.empty_like(hidden), *norm1, torch.empty_like(weight), *by_head


def _keep(ctx, inputs, output) -> None:
    """Save what backward needs: the tensors in one list, as autograd asks, and the rest by name."""
    *tensors, ctx.hw_shape, ctx.eps, ctx.queries_each, _ = inputs
    _, normed, inverse = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, normed, inverse)


class _Gradients(NamedTuple):
    """Gradient of each argument of :func:`query_position`, in its order; None for those that have none."""

    hidden: Tensor | None = None
    factor: Tensor | None = None
    summand: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    gamma: Tensor | None = None
    beta: Tensor | None = None
    rows: None = None
    cols: None = None
    hw_shape: None = None
    eps: None = None
    queries_each: None = None
    keep: None = None


def _backward(ctx, grad, *_):
    if grad is None:
        return tuple(_Gradients())
    *tensors, normed, inverse = ctx.saved_tensors
    hidden, factor, summand, weight, _, gamma, beta, rows, cols = tensors
    with without_autocast(grad.device):
        if torch.is_grad_enabled():  # create_graph=True: the result will be differentiated again
            plain = partial(plain_query_position, hw_shape=ctx.hw_shape, eps=ctx.eps)
            return tuple(_Gradients(*differentiable_gradients(plain, tensors, grad)))
        found = _Gradients(*query_position_backward(grad, normed, inverse, hidden, factor, summand, weight, gamma, beta,
                                                    rows, cols, ctx.hw_shape, ctx.queries_each))
    if factor is None:
        found = found._replace(factor=None, summand=None)
    if gamma is None:
        found = found._replace(gamma=None, beta=None)
    return tuple(found)


query_position.register_autograd(_backward, setup_context=_keep)
