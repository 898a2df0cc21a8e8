"""In which precision the position network runs."""
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Context in which autocast is off on a device. The meta device has no autocast."""
    return nullcontext() if device.type == 'meta' else torch.autocast(device.type, enabled=False)


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
