"""In which precision the position network runs."""
from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Context in which autocast is off on a device. The meta device has no autocast."""
    return nullcontext() if device.type == 'meta' else torch.autocast(device.type, enabled=False)


def exact_dtype(device: torch.device) -> torch.dtype:
    """Type for computations on one small map: float64, or float32 on MPS, which has nothing wider.

    float32 has too few digits for two reasons. The first norm's variance is a difference of squares, which loses digits
    as the grid grows. On CUDA, float32 products and convolutions may run in TF32.
    """
    return torch.float32 if device.type == 'mps' else torch.float64
