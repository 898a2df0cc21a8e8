"""Mixed precision that needs no GPU."""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn as nn
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner.amp import autocast


@OPTIM_WRAPPERS.register_module()
class PerViTBFloat16OptimWrapper(OptimWrapper):
    """MMEngine's ``OptimWrapper`` with the forward pass under bfloat16 autocast, on any device.

    MMEngine's ``AmpOptimWrapper`` refuses to be built without a GPU, though its autocast knows the CPU, and CPUs with
    bfloat16 instructions gain from it. bfloat16 has the exponents of float32, so there is no loss to scale; weights,
    gradients and optimizer states stay float32. Arguments are those of ``OptimWrapper``.

    Raises:
        RuntimeError: While training on a GPU without bfloat16 (from MMEngine).

    Examples:
        >>> optim_wrapper = dict(type='PerViTBFloat16OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """As ``OptimWrapper``'s, under autocast.

        Args:
            model (nn.Module): The model in training.
        """
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
