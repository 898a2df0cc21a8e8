"""In which precision the position network runs."""
from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Context in which autocast is off on a device; the meta device has none."""
    return nullcontext() if device.type == 'meta' else torch.autocast(device.type, enabled=False)


def exact_dtype(device: torch.device) -> torch.dtype:
    """float64, in which what is one small map is computed; float32 on MPS, which has nothing wider.

    The first norm's variance is a difference of squares, which loses digits as the grid grows, and on CUDA float32
    products and convolutions may run in TF32.
    """
    return torch.float32 if device.type == 'mps' else torch.float64
