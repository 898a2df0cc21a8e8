"""The operators of :mod:`pervit_mm.ops.position_per_query` as fused Triton kernels, for CUDA; off by default.

The torch form writes every step of a slice of queries to memory. Here one program makes the logits of one query from
the offset map: norm, ReLU and the k² taps never leave the chip. If all keys fit one program, the last norm and
log-sigmoid follow at once; on larger grids a second kernel does them. Backward has three kernels: the gradient of the
logits, that of the windows and that of the weights. No kernel adds into memory that another program adds to, so results
repeat bit for bit.

Triton is imported with the first use.
"""
import os
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import ModuleType

import torch
from torch import Tensor

from ..utils.errors import UserError
from .distance import fold_offsets
from .position_per_query import query_position, query_position_backward

#: Environment variable that turns the kernels on: 1, or else 0.
VARIABLE = 'PERVIT_FUSED_POSITION'
#: Kind of device whose kernels these are.
DEVICE = 'cuda'
#: Least compute capability. Older cards have no TF32.
CAPABILITY = (8, 0)
#: Keys that a program holds at a time, a power of 2. On grids of up to this many tokens it holds all of a query.
KEYS = 256
#: The same for gradients of windows and of weights. With more, a kernel has too few registers and spills.
WINDOW_KEYS, WEIGHT_KEYS = 64, 32
#: Channels that one product takes at a time.
CHANNELS = 16
#: Offsets within one launch are 32-bit numbers.
MAX_OFFSET = 2**31 - 1


def _kernels() -> ModuleType:
    try:
        from . import position_per_query_kernels
    except ImportError as error:
        raise UserError(f'use_fused_position(True), or {VARIABLE}=1, needs Triton, which cannot be imported ({error}): '
                        'pip install triton, or leave the option off.') from error
    return position_per_query_kernels


def _device(tensors: tuple[Tensor | None, ...]) -> AbstractContextManager:
    """Context in which Triton launches where the tensors are, after a check of their types and of the card."""
    other = next((t.dtype for t in tensors if t is not None and t.dtype != torch.float32), None)
    if other is not None:
        raise UserError(f'dtype={other}: the fused position kernels take float32 alone. Convert the tensors, or turn '
                        'the kernels off by pervit_mm.ops.use_fused_position(False).')
    device = tensors[0].device
    if device.type != 'cuda':
        return nullcontext()
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and capability < CAPABILITY:
        raise UserError(f'the fused position kernels need a card of compute capability {CAPABILITY}, and {device} has '
                        f'{capability}: turn them off, by {VARIABLE}=0 or pervit_mm.ops.use_fused_position(False)')
    return torch.cuda.device(device)


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [t if t is None else t.contiguous() for t in tensors]


def _power(size: int, least: int = 16) -> int:
    """Next power of 2, at least what a matrix product takes."""
    return max(least, 1 << (size - 1).bit_length())


def _constants(weight: Tensor) -> dict:
    """Sizes that the kernels of a network are compiled for, and how precise their products are."""
    _, heads, channels, kernel, _ = weight.shape
    # Three products in TF32 are about as precise as one in float32. AMD's cards and Triton's interpreter, on the CPU,
    # have no TF32.
    precision = 'ieee' if weight.device.type == 'cpu' or torch.version.hip else 'tf32x3'
    return dict(D=channels, HEADS=heads, KERNEL=kernel, WIDE=_power(heads), CHANNELS=CHANNELS, PRECISION=precision)


def fused_query_position(hidden, factor, summand, weight, bias, gamma, beta, rows, cols, hw_shape, eps, queries_each,
                         keep, most_keys=KEYS):
    """:func:`pervit_mm.ops.position_per_query.query_position` by Triton, in float32.

    Args:
        hidden, factor, summand, weight, bias, gamma, beta, rows, cols, hw_shape, eps, keep: As there.
        queries_each (int): Has no effect: nothing of a query but the result is written to memory.
        most_keys (int): Keys that a program holds, at most: a power of 2, from 16 on. Defaults to :data:`KEYS`.

    Returns:
        tuple[Tensor, Tensor, Tensor]: As there.

    Raises:
        UserError: If Triton is missing, or a tensor is not float32.
    """
    kernels, (h, w) = _kernels(), hw_shape
    hidden, factor, summand, weight, bias, gamma, beta, rows, cols = tensors = _contiguous(
        hidden, factor, summand, weight, bias, gamma, beta, rows, cols)
    blocks, heads, n = *weight.shape[:2], h * w
    keys = min(_power(n), most_keys)
    whole = n <= keys
    log_position = hidden.new_empty(blocks, heads, h, w, h, w)
    normed = torch.empty_like(log_position) if keep else None
    inverse = hidden.new_ones(blocks, heads, h, w, 1, 1)
    with _device(tensors):
        kernels.logits[n, blocks, -(-n // keys)](*tensors, log_position, normed, inverse, h, w, eps, KEYS=keys,
                                                 WHOLE=whole, **_constants(weight))
        if gamma is not None and not whole:
            kernels.normalize[n, blocks * heads](gamma, beta, rows, cols, log_position, normed, inverse, h, w, eps,
                                                 KEYS=keys)
    return log_position, hidden.new_empty(0) if normed is None else normed, inverse


def fused_query_position_backward(grad, normed, inverse, hidden, factor, summand, weight, gamma, beta, rows, cols,
                                  hw_shape, queries_each, most_keys=KEYS):
    """:func:`pervit_mm.ops.position_per_query.query_position_backward` by Triton, in float32.

    Args:
        grad, normed, inverse, hidden, factor, summand, weight, gamma, beta, rows, cols, hw_shape: As there.
        queries_each (int): Queries whose windows of gradients are in memory at a time, rounded to whole rows.
        most_keys (int): Keys that a program holds, at most: a power of 2, from 16 on. Defaults to :data:`KEYS`.

    Returns:
        tuple[Tensor, ...]: As there.

    Raises:
        UserError: If Triton is missing, or a tensor is not float32.
    """
    kernels, (h, w) = _kernels(), hw_shape
    grad, normed, inverse, hidden, factor, summand, weight, gamma, beta, rows, cols = tensors = _contiguous(
        grad, normed, inverse, hidden, factor, summand, weight, gamma, beta, rows, cols)
    blocks, heads, channels, kernel, _ = weight.shape
    n, height, width = h * w, h + kernel - 1, w + kernel - 1
    constants, slices = _constants(weight), -(-channels // CHANNELS)
    dhidden, dparts = torch.zeros_like(hidden), hidden.new_empty(h, *weight.shape)
    dfactor, dsummand = (hidden.new_empty(0 if t is None else t.shape) for t in (factor, summand))
    dbias, dgamma, dbeta = hidden.new_zeros(3, blocks, heads, n)
    row_size = w * max(blocks * heads * n, blocks * channels * height * width)
    rows_each = max(1, min(queries_each // w, MAX_OFFSET // row_size, h))
    with _device(tensors):
        for top in range(0, h, rows_each):
            lines = min(rows_each, h - top)
            part = h, w, lines * w, top * w
            dlogits = hidden.new_empty(blocks, heads, lines * w, n)
            kernels.logits_gradient[lines * w, blocks * heads](
                grad, normed, inverse, gamma, beta, rows, cols, dlogits, dbias, dgamma, dbeta, *part,
                KEYS=min(_power(n), most_keys))
            dwindows = hidden.new_empty(blocks, channels, lines, w, height, width)
            kernels.hidden_gradient[lines * w, blocks, slices](
                dlogits, hidden, factor, summand, weight, dwindows, dfactor, dsummand, *part,
                KEYS=min(WINDOW_KEYS, most_keys), **constants)
            kernels.weight_gradient[lines, blocks, kernel**2 * slices](
                dlogits, hidden, factor, summand, dparts, *part, blocks,
                KEYS=min(WEIGHT_KEYS, most_keys), **constants)
            fold_offsets(dwindows, dhidden[:, :, top:top + lines + height - 1])  # each window back to its place
    return dhidden, dfactor, dsummand, dparts.sum(0), dbias.sum(-1), dgamma.sum(-1), dbeta.sum(-1)


#: What keeps registered kernels from being used; empty while they are on.
_held_off = ExitStack()
_registered = False


def _register() -> None:
    global _registered
    if not _registered:
        query_position.register_kernel(DEVICE)(fused_query_position)
        query_position_backward.register_kernel(DEVICE)(fused_query_position_backward)
        _registered = True


def use_fused_position(enabled: bool = True) -> None:
    """Whether CUDA makes log Φp by the fused Triton kernels. Other devices always use the torch form.

    The choice is for the whole process. The environment variable ``PERVIT_FUSED_POSITION=1`` makes it at import.

    Args:
        enabled (bool): Defaults to True. To turn them off again needs torch 2.6.

    Raises:
        UserError: If Triton is missing.
    """
    if enabled:
        _kernels()
        _register()
    _held_off.close()
    if not enabled and _registered:
        for operator in (query_position, query_position_backward):
            _held_off.enter_context(operator.set_kernel_enabled(DEVICE, False))


def _read_variable() -> None:
    value = os.environ.get(VARIABLE, '0')
    if value not in ('', '0', '1'):
        raise UserError(f'{VARIABLE}={value!r} must be 1, for the fused position kernels, or 0.')
    if value == '1':
        _register()  # Triton is imported with the first call, so that CPU processes do without


_read_variable()
