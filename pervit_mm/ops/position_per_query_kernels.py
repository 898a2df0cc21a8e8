"""Triton kernels of :mod:`pervit_mm.ops.position_per_query_triton`. Importing this file imports Triton.

Names: L blocks, D channels, H x W tokens, N = H * W keys, k the side of the second convolution. ``HEADS`` and ``WIDE``
are nH and the next size that a matrix product takes. All tensors are contiguous float32. A query is known by its
window, see :func:`pervit_mm.ops.distance.expand_offsets`: window t belongs to query N - 1 - t.

Each value is written by one program, and loops add in a fixed order. So results repeat bit for bit.

Loops are ``tl.range``: ``tl.static_range`` would unroll the taps, and registers would spill.
"""
import triton
import triton.language as tl

#: The kernels compile once for all grids of a model: no copy for sizes that are 1 or a multiple of 16.
GRID_SIZES = ['h', 'w', 'windows', 'first_window']


@triton.jit
def _hidden(hidden, factor, summand, layer, channel, window, spot, inside, area, n, D: tl.constexpr):
    """First norm and ReLU of ``channel`` at ``spot`` of the offset map, and the values before: ``(channel, spot)``."""
    at = layer * D + channel
    raw = tl.load(hidden + at[:, None] * area + spot[None, :], mask=(channel < D)[:, None] & inside[None, :], other=0.)
    x = raw
    if factor is not None:
        scale = tl.load(factor + at * n + window, mask=channel < D, other=0.)
        shift = tl.load(summand + at * n + window, mask=channel < D, other=0.)
        x = raw * scale[:, None] + shift[:, None]
    return tl.maximum(x, 0.), raw


@triton.jit
def _tap(weight, layer, head, channel, tap, HEADS: tl.constexpr, D: tl.constexpr, TAPS: tl.constexpr):
    """Weights of one tap, on the broadcast shape of ``head`` and ``channel``."""
    return tl.load(weight + ((layer * HEADS + head) * D + channel) * TAPS + tap, mask=(head < HEADS) & (channel < D),
                   other=0.)


@triton.jit
def _share(rows, cols, query, key, h, w):
    """Share of each key in the last norm of a query; 0 beyond the grid."""
    inside = key < h * w
    if rows is None:
        share = tl.where(inside, 1. / (h * w), 0.)
    else:
        share = tl.load(rows + (query // w) * h + key // w, mask=inside, other=0.)
        share *= tl.load(cols + (query % w) * w + key % w, mask=inside, other=0.)
    return share


@triton.jit
def _log_sigmoid(z):
    return tl.minimum(z, 0.) - tl.log(1. + tl.exp(-tl.abs(z)))


@triton.jit(do_not_specialize=GRID_SIZES)
def logits(hidden, factor, summand, weight, bias, gamma, beta, rows, cols, log_position, normed, inverse, h, w, eps,
           D: tl.constexpr, HEADS: tl.constexpr, KERNEL: tl.constexpr, WIDE: tl.constexpr, CHANNELS: tl.constexpr,
           KEYS: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr):
    """Logits of one query, block and slice of keys; grid (N, L, slices).

    ``WHOLE``: the slice holds all keys, so the last norm and log-sigmoid follow at once. Else ``log_position`` gets the
    logits, and :func:`normalize` does the rest.
    """
    window, layer = tl.program_id(0), tl.program_id(1)
    key = tl.program_id(2) * KEYS + tl.arange(0, KEYS)
    n, pitch = h * w, 2 * w - 2 + KERNEL
    query, area = n - 1 - window, (2 * h - 2 + KERNEL) * pitch
    spot = (window // w + key // w) * pitch + window % w + key % w
    head = tl.arange(0, WIDE)
    total = tl.zeros([WIDE, KEYS], tl.float32)
    for tap in tl.range(KERNEL * KERNEL):
        for first in tl.range(0, D, CHANNELS):
            channel = first + tl.arange(0, CHANNELS)
            x, _ = _hidden(hidden, factor, summand, layer, channel, window,
                           spot + (tap // KERNEL) * pitch + tap % KERNEL, key < n, area, n, D)
            taps = _tap(weight, layer, head[:, None], channel[None, :], tap, HEADS, D, KERNEL * KERNEL)
            total = tl.dot(taps, x, total, input_precision=PRECISION)
    real = head < HEADS
    by_head = layer * HEADS + head
    total += tl.load(bias + by_head, mask=real, other=0.)[:, None]
    # The whole result may have more values than int32 counts.
    at = (by_head.to(tl.int64) * n + query)[:, None] * n + key[None, :]
    kept = real[:, None] & (key < n)[None, :]
    if gamma is None:
        if normed is not None:
            tl.store(normed + at, total, mask=kept)
        tl.store(log_position + at, _log_sigmoid(total), mask=kept)
    elif WHOLE:
        share = _share(rows, cols, query, key, h, w)[None, :]
        total -= tl.sum(total * share, 1)[:, None]
        scale = tl.rsqrt(tl.sum(total * total * share, 1) + eps)
        tl.store(inverse + by_head * n + query, scale, mask=real)
        total *= scale[:, None]
        if normed is not None:
            tl.store(normed + at, total, mask=kept)
        slope = tl.load(gamma + by_head, mask=real, other=0.)
        shift = tl.load(beta + by_head, mask=real, other=0.)
        tl.store(log_position + at, _log_sigmoid(total * slope[:, None] + shift[:, None]), mask=kept)
    else:
        tl.store(log_position + at, total, mask=kept)


@triton.jit(do_not_specialize=GRID_SIZES)
def normalize(gamma, beta, rows, cols, log_position, normed, inverse, h, w, eps, KEYS: tl.constexpr):
    """Last norm and log-sigmoid of the logits that ``log_position`` holds, in place; grid (N, L * nH)."""
    query, by_head = tl.program_id(0), tl.program_id(1)
    n = h * w
    row = by_head.to(tl.int64) * n + query
    part = tl.arange(0, KEYS)
    total, square = tl.zeros([KEYS], tl.float32), tl.zeros([KEYS], tl.float32)
    for first in tl.range(0, n, KEYS):
        key = first + part
        total += tl.load(log_position + row * n + key, mask=key < n, other=0.) * _share(rows, cols, query, key, h, w)
    mean = tl.sum(total, 0)
    for first in tl.range(0, n, KEYS):
        key = first + part
        x = tl.load(log_position + row * n + key, mask=key < n, other=0.) - mean
        square += x * x * _share(rows, cols, query, key, h, w)
    scale = tl.rsqrt(tl.sum(square, 0) + eps)
    tl.store(inverse + row, scale)
    slope, shift = tl.load(gamma + by_head), tl.load(beta + by_head)
    for first in tl.range(0, n, KEYS):
        key = first + part
        x = (tl.load(log_position + row * n + key, mask=key < n, other=0.) - mean) * scale
        if normed is not None:
            tl.store(normed + row * n + key, x, mask=key < n)
        tl.store(log_position + row * n + key, _log_sigmoid(x * slope + shift), mask=key < n)


@triton.jit
def _through_sigmoid(grad, normed, gamma, beta, at, inside, by_head):
    """Gradient before log-sigmoid, whose slope is sigmoid(-z), and the normalized logits."""
    y = tl.load(normed + at, mask=inside, other=0.)
    z = y
    if gamma is not None:
        z = y * tl.load(gamma + by_head) + tl.load(beta + by_head)
    return tl.load(grad + at, mask=inside, other=0.) * tl.sigmoid(-z), y


@triton.jit(do_not_specialize=GRID_SIZES)
def logits_gradient(grad, normed, inverse, gamma, beta, rows, cols, dlogits, dbias, dgamma, dbeta, h, w, windows,
                    first_window, KEYS: tl.constexpr):
    """Gradient of the logits of some windows, and each query's part in those of bias, γ and β.

    Grid (windows, L * nH). ``dlogits`` is ``(L, nH, windows, N)``; the parts are ``(L, nH, N)``, by query.
    """
    window, by_head = tl.program_id(0), tl.program_id(1)
    n = h * w
    query = n - 1 - first_window - window
    row = by_head.to(tl.int64) * n + query
    part = tl.arange(0, KEYS)
    total, slope, scale = 0., 0., 1.
    if gamma is not None:
        totals, slopes = tl.zeros([KEYS], tl.float32), tl.zeros([KEYS], tl.float32)
        for first in tl.range(0, n, KEYS):
            key = first + part
            dz, y = _through_sigmoid(grad, normed, gamma, beta, row * n + key, key < n, by_head)
            totals += dz
            slopes += dz * y
        total, slope = tl.sum(totals, 0), tl.sum(slopes, 0)
        tl.store(dbeta + row, total)
        tl.store(dgamma + row, slope)
        scale = tl.load(inverse + row) * tl.load(gamma + by_head)
    sums = tl.zeros([KEYS], tl.float32)
    for first in tl.range(0, n, KEYS):
        key = first + part
        dz, y = _through_sigmoid(grad, normed, gamma, beta, row * n + key, key < n, by_head)
        if gamma is not None:
            dz = (dz - (total + y * slope) * _share(rows, cols, query, key, h, w)) * scale
        sums += dz
        tl.store(dlogits + (by_head * windows + window) * n + key, dz, mask=key < n)
    tl.store(dbias + row, tl.sum(sums, 0))


@triton.jit(do_not_specialize=GRID_SIZES)
def hidden_gradient(dlogits, hidden, factor, summand, weight, dwindows, dfactor, dsummand, h, w, windows, first_window,
                    D: tl.constexpr, HEADS: tl.constexpr, KERNEL: tl.constexpr, WIDE: tl.constexpr,
                    CHANNELS: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr):
    """Gradient of some windows of the offset map, and of their factor and summand; grid (windows, L, slices of D).

    ``dwindows`` is ``(L, D, windows, H + k - 1, W + k - 1)``.
    """
    local, layer = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    head, part = tl.arange(0, WIDE), tl.arange(0, KEYS)
    n, window, pitch = h * w, first_window + local, 2 * w - 2 + KERNEL
    area, width = (2 * h - 2 + KERNEL) * pitch, w + KERNEL - 1
    size = (h + KERNEL - 1) * width
    real, at = channel < D, layer * D + channel
    gradients = dlogits + ((layer * HEADS + head) * windows + local)[:, None] * n
    scale = tl.full([CHANNELS], 1., tl.float32)
    if factor is not None:
        scale = tl.load(factor + at * n + window, mask=real, other=0.)
    totals, slopes = tl.zeros([CHANNELS], tl.float32), tl.zeros([CHANNELS], tl.float32)
    for first in tl.range(0, size, KEYS):
        row, col = (first + part) // width, (first + part) % width
        dx = tl.zeros([CHANNELS, KEYS], tl.float32)
        for tap in tl.range(KERNEL * KERNEL):
            i, j = row - tap // KERNEL, col - tap % KERNEL
            inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
            dz = tl.load(gradients + (i * w + j)[None, :], mask=(head < HEADS)[:, None] & inside[None, :], other=0.)
            taps = _tap(weight, layer, head[None, :], channel[:, None], tap, HEADS, D, KERNEL * KERNEL)
            dx = tl.dot(taps, dz, dx, input_precision=PRECISION)
        inside = first + part < size
        spot = (window // w + row) * pitch + window % w + col
        x, raw = _hidden(hidden, factor, summand, layer, channel, window, spot, inside, area, n, D)
        dx = tl.where(x > 0, dx, 0.)
        totals += tl.sum(dx, 1)
        slopes += tl.sum(dx * raw, 1)
        tl.store(dwindows + (at * windows + local)[:, None] * size + (first + part)[None, :], dx * scale[:, None],
                 mask=real[:, None] & inside[None, :])
    if factor is not None:
        tl.store(dsummand + at * n + window, totals, mask=real)
        tl.store(dfactor + at * n + window, slopes, mask=real)


@triton.jit(do_not_specialize=GRID_SIZES)
def weight_gradient(dlogits, hidden, factor, summand, dweight, h, w, windows, first_window, blocks, D: tl.constexpr,
                    HEADS: tl.constexpr, KERNEL: tl.constexpr, WIDE: tl.constexpr, CHANNELS: tl.constexpr,
                    KEYS: tl.constexpr, PRECISION: tl.constexpr):
    """Part of each row of windows in the gradient of the weights; grid (rows, L, k² * slices of D).

    ``dweight`` is ``(H, L, nH, D, k²)``.
    """
    line, layer = tl.program_id(0), tl.program_id(1)
    tap = tl.program_id(2) % (KERNEL * KERNEL)
    channel = tl.program_id(2) // (KERNEL * KERNEL) * CHANNELS + tl.arange(0, CHANNELS)
    head, part = tl.arange(0, WIDE), tl.arange(0, KEYS)
    n, pitch = h * w, 2 * w - 2 + KERNEL
    area, top = (2 * h - 2 + KERNEL) * pitch, first_window // w + line
    total = tl.zeros([WIDE, CHANNELS], tl.float32)
    for left in tl.range(w):
        gradients = dlogits + ((layer * HEADS + head) * windows + line * w + left)[:, None] * n
        for first in tl.range(0, n, KEYS):
            key = first + part
            spot = (top + key // w + tap // KERNEL) * pitch + left + key % w + tap % KERNEL
            x, _ = _hidden(hidden, factor, summand, layer, channel, top * w + left, spot, key < n, area, n, D)
            dz = tl.load(gradients + key[None, :], mask=(head < HEADS)[:, None] & (key < n)[None, :], other=0.)
            total = tl.dot(dz, tl.trans(x), total, input_precision=PRECISION)
    at = ((top * blocks + layer) * HEADS + head)[:, None] * D + channel[None, :]
    tl.store(dweight + at * (KERNEL * KERNEL) + tap, total, mask=(head < HEADS)[:, None] & (channel < D)[None, :])
