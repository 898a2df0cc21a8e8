"""In which precision the position network and the norms run."""
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor

# What is registered with torch goes with the library, so that is kept.
_REGISTERED: list[torch.library.Library] = []


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Context in which autocast is off on a device. The meta device has no autocast."""
    return nullcontext() if device.type == 'meta' else torch.autocast(device.type, enabled=False)


def autocast_layer_norm_in_float32() -> None:
    """Let autocast on the CPU run LayerNorm in float32, as autocast on CUDA does, for the rest of the process.

    Left alone, torch 2.14 sums the gradients of LayerNorm's weight and bias in bfloat16 there. Such a sum stands still
    as soon as its terms are below its last bit: over 12,544 tokens ones add up to 256. A second call does nothing.
    """
    if not _REGISTERED:
        library = torch.library.Library('aten', 'IMPL')
        library.impl('layer_norm', _layer_norm, 'AutocastCPU')
        _REGISTERED.append(library)


def _layer_norm(x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
                eps: float = 1e-5, cudnn_enable: bool = True) -> Tensor:
    """torch's own, which the arguments are named by, in float32; doubles stay."""
    wide = torch.promote_types(x.dtype, torch.float32)
    x, weight, bias = (None if part is None else part.to(wide) for part in (x, weight, bias))
    with torch.autocast('cpu', enabled=False):
        return torch.ops.aten.layer_norm(x, normalized_shape, weight, bias, eps, cudnn_enable)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Context, or decorator, in which float32 matrix products run in float32, whatever the user has allowed.

    ``torch.set_float32_matmul_precision('high')`` speeds up the layers of a network by TF32, which has ten bits behind
    the point. log Φp would lose digits by it. The setting is one of the whole process: where several threads compute Φp
    at a time, one may end the exact time of another.
    """
    try:
        before, exact, change = torch.get_float32_matmul_precision(), 'highest', torch.set_float32_matmul_precision
    except RuntimeError:  # torch refuses to answer where the user has set the newer option, which torch 2.9 brought
        matmul = torch.backends.cuda.matmul
        before, exact, change = matmul.fp32_precision, 'ieee', partial(setattr, matmul, 'fp32_precision')
    if before == exact:
        yield
        return
    change(exact)
    try:
        yield
    finally:
        change(before)


def exact_dtype(device: torch.device) -> torch.dtype:
    """Type for computations on one small map: float64, or float32 on MPS, which has nothing wider.

    float32 has too few digits for two reasons. The first norm's variance is a difference of squares, which loses digits
    as the grid grows. On CUDA, float32 products and convolutions may run in TF32.
    """
    return torch.float32 if device.type == 'mps' else torch.float64
