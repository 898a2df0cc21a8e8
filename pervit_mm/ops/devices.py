"""What suits a device: work in the processor's cache on the CPU, few large kernels everywhere else.

A kernel on an accelerator takes some microseconds to launch, whatever its size. The CPU has no such cost, and is
fastest where its work fits into the cache.
"""
import torch

#: Bytes of hidden values that one slice of queries may hold on the CPU, all blocks together.
CPU_SLICE_BYTES = 4 * 2**20

#: The same on other devices. All blocks of a 14 x 14 grid are one slice. Backward needs about five times as much.
SLICE_BYTES = 256 * 2**20


def few_launches(device: torch.device) -> bool:
    """Whether few large kernels are better than many small ones. Only here is this decided."""
    return device.type != 'cpu'


def default_slice_bytes(device: torch.device) -> int:
    """Bytes of hidden values that one slice of queries may hold, all blocks together."""
    return SLICE_BYTES if few_launches(device) else CPU_SLICE_BYTES
