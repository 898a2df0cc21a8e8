"""What a checkpoint holds that must not be believed."""
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def drop_config(checkpoint: Any) -> bool:
    """Remove ``meta['config']``, which MMEngine runs as Python code when it resumes.

    The files that MMEngine writes have ``meta['cfg']`` instead, which nothing runs.

    Args:
        checkpoint (Any): What was read; changed in place.

    Returns:
        bool: Whether there was such an entry.
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    return isinstance(meta, dict) and meta.pop('config', None) is not None


def non_finite_weights(state_dict: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity.

    Args:
        state_dict (Mapping[str, Tensor]): Weights and buffers of any dtype.

    Returns:
        list[str]: In the order of ``state_dict``; empty if all is well.
    """
    # log Φp of a deployed model may be minus infinity, where Φp is 0.
    return [name for name, tensor in state_dict.items()
            if (tensor.is_floating_point() or tensor.is_complex()) and '.attn.position.grid_' not in name
            and not bool(torch.isfinite(tensor).all())]
