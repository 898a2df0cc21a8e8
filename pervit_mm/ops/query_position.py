"""From the hidden offset map to log Φp: the part of the position network that is work per query.

Norm, ReLU, convolution, norm and log-sigmoid of a slice of queries at a time, with a backward of its own. Autograd
would keep several tensors of D·N·(H + 2)·(W + 2) values; here only the normalized logits are kept, nH·N·N, and
everything wider is made again in backward, slice by slice, while it fits the cache.

The convolution is one matrix product over channels, all k² taps at once, followed by k² shifted additions. On the CPU
that beats convolution kernels, which are made for many output channels, where the position network has nH.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from .distance import expand_offsets


def _shifted(products: Tensor, kernel: int, hw_shape: tuple[int, int]) -> list[Tensor]:
    """Each of k² taps ``(k², ..., H + 2p, W + 2p)``, in reading order, seen where it lies over the keys (H, W)."""
    h, w = hw_shape
    return [products[i * kernel + j, ..., i:i + h, j:j + w] for i in range(kernel) for j in range(kernel)]


def _tap_matrix(weight: Tensor) -> Tensor:
    """Convolution weight ``(nH, D, k, k)`` as ``(k² * nH, D)``."""
    return weight.permute(2, 3, 0, 1).reshape(-1, weight.shape[1])


def _hidden(windows: Tensor, factor: Tensor | None, summand: Tensor | None) -> Tensor:
    """First norm and ReLU of windows ``(D, r, W, H + 2p, W + 2p)``; factor and summand are ``(D, r, W)``."""
    if factor is None:
        return windows.relu()
    return torch.addcmul(summand[..., None, None], windows, factor[..., None, None]).relu_()


def _fold_last(x: Tensor) -> Tensor:
    """Sum ``x`` (..., n, m) along its diagonals: entry (s, j) goes to s + j. ``(..., n + m - 1)``.

    Rows padded by n and read off at a pitch one shorter are each shifted by one more.
    """
    n, m = x.shape[-2:]
    x = F.pad(x, (0, n)).flatten(-2)[..., :n * (n + m - 1)]
    return x.unflatten(-1, (n, n + m - 1)).sum(-2)


def _fold_windows(x: Tensor) -> Tensor:
    """Gradient of a map from that of its windows: ``(D, r, W, h, w)`` → ``(D, r + h - 1, W + w - 1)``."""
    x = _fold_last(x.transpose(2, 3))  # (D, r, h, W, w) → (D, r, h, W + w - 1)
    return _fold_last(x.permute(0, 3, 1, 2)).transpose(1, 2)


def _key_shares(rows: Tensor, cols: Tensor, cut: slice) -> Tensor:
    """Share of each key in the last norm, ``(r, W, H, W)``, from those along each axis, ``(H, H)`` and ``(W, W)``."""
    return torch.einsum('ik,jl->ijkl', rows[cut], cols)


class QueryPosition(torch.autograd.Function):
    """log Φp of all queries from the hidden offset map; called by :func:`pervit_mm.ops.log_position_map`.

    Args:
        hidden (Tensor): Offset map, ``(D, 2H - 1 + 2p, 2W - 1 + 2p)``.
        factor, summand (Tensor, optional): First norm by query, ``(D, H, W)``; None leaves it out.
        weight, bias (Tensor): Second convolution, ``(nH, D, k, k)`` and ``(nH,)``.
        gamma, beta (Tensor, optional): Last norm, ``(nH,)``; None leaves it out.
        rows, cols (Tensor, optional): Share of each key in the last norm along the axes, ``(H, H)`` and ``(W, W)``;
            None counts all keys alike.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens.
        eps (float): Of the last norm.
        rows_each (int): Query rows in a slice.

    Returns:
        Tensor: ``(nH, H, W, H, W)``, queries in the windows' backward order.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, factor: Tensor | None, summand: Tensor | None, weight: Tensor, bias: Tensor,
                gamma: Tensor | None, beta: Tensor | None, rows: Tensor | None, cols: Tensor | None,
                hw_shape: tuple[int, int], eps: float, rows_each: int) -> Tensor:
        """Slices of ``rows_each`` query rows, in the windows' own (backward) order."""
        h, w = hw_shape
        heads, kernel = weight.shape[0], weight.shape[-1]
        windows = expand_offsets(hidden, hw_shape, kernel // 2)
        matrix = _tap_matrix(weight)
        out = hidden.new_empty(heads, h, w, h, w)
        inverse = hidden.new_empty(heads, h, w, 1, 1)
        for start in range(0, h, rows_each):
            cut = slice(start, start + rows_each)
            x = _hidden(windows[:, cut], *(t if t is None else t[:, cut] for t in (factor, summand)))
            products = (matrix @ x.flatten(1)).unflatten(0, (kernel**2, heads)).unflatten(2, x.shape[1:])
            logits = out[:, cut]
            logits.copy_(bias[:, None, None, None, None].expand_as(logits))
            for product in _shifted(products, kernel, hw_shape):
                logits += product
            if gamma is not None:
                if rows is None:
                    variance, mean = torch.var_mean(logits, dim=(3, 4), correction=0, keepdim=True)
                else:
                    share = _key_shares(rows, cols, cut)
                    mean = (logits * share).sum((3, 4), keepdim=True)
                    variance = ((logits - mean).square() * share).sum((3, 4), keepdim=True)
                inverse[:, cut] = torch.rsqrt(variance + eps)
                logits.sub_(mean).mul_(inverse[:, cut])
        ctx.save_for_backward(hidden, factor, summand, weight, gamma, beta, rows, cols, out, inverse)
        ctx.hw_shape, ctx.rows_each = hw_shape, rows_each
        return F.logsigmoid(_scale(out, gamma, beta))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        """Gradients of everything that has one, slice by slice."""
        hidden, factor, summand, weight, gamma, beta, rows, cols, normed, inverse = ctx.saved_tensors
        h, w = ctx.hw_shape
        heads, kernel = weight.shape[0], weight.shape[-1]
        windows = expand_offsets(hidden, ctx.hw_shape, kernel // 2)
        matrix = _tap_matrix(weight)
        dhidden, dmatrix = torch.zeros_like(hidden), torch.zeros_like(matrix)
        dfactor, dsummand = (None if t is None else torch.empty_like(t) for t in (factor, summand))
        dbias, dgamma, dbeta = hidden.new_zeros(heads), hidden.new_zeros(heads), hidden.new_zeros(heads)
        for start in range(0, h, ctx.rows_each):
            cut = slice(start, start + ctx.rows_each)
            y = normed[:, cut]
            # Through log-sigmoid, then the last norm.
            dlogits = grad[:, cut] * torch.sigmoid(_scale(y, gamma, beta).neg_())
            if gamma is not None:
                dgamma += (dlogits * y).sum((1, 2, 3, 4))
                dbeta += dlogits.sum((1, 2, 3, 4))
                total = dlogits.sum((3, 4), keepdim=True)
                slope = (dlogits * y).sum((3, 4), keepdim=True)
                share = 1 / (h * w) if rows is None else _key_shares(rows, cols, cut)
                dlogits = (dlogits - (total + y * slope) * share) * (inverse[:, cut] * gamma[:, None, None, None, None])
            dbias += dlogits.sum((1, 2, 3, 4))
            # Through the convolution: shifted copies, then the transposed product.
            window = windows[:, cut]
            x = _hidden(window, *(t if t is None else t[:, cut] for t in (factor, summand)))
            dproducts = x.new_zeros(kernel**2, heads, *x.shape[1:])
            for product in _shifted(dproducts, kernel, ctx.hw_shape):
                product.copy_(dlogits)
            dproducts = dproducts.flatten(0, 1).flatten(1)
            dmatrix += dproducts @ x.flatten(1).t()
            dx = (matrix.t() @ dproducts).view_as(x).mul_(x > 0)
            if factor is not None:
                dsummand[:, cut] = dx.sum((3, 4))
                dfactor[:, cut] = (dx * window).sum((3, 4))
                dx *= factor[:, cut, :, None, None]
            dhidden[:, start:start + dx.shape[1] + dx.shape[3] - 1] += _fold_windows(dx)
        dweight = dmatrix.unflatten(0, (kernel, kernel, heads)).permute(2, 3, 0, 1)
        return (dhidden, dfactor, dsummand, dweight, dbias, None if gamma is None else dgamma,
                None if beta is None else dbeta, None, None, None, None, None)


def _scale(normed: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    """γ·y + β by head, a new tensor."""
    if gamma is None:
        return normed.clone()
    return torch.addcmul(beta[:, None, None, None, None], normed, gamma[:, None, None, None, None])
