"""An exponential moving average of all weights in few kernels."""
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class PerViTExponentialMovingAverage(ExponentialMovingAverage):
    """MMEngine's ``ExponentialMovingAverage``, which moves all tensors together.

    MMEngine moves them one by one, which on a GPU is a kernel for each of some hundred tensors. Here torch moves lists
    of tensors. Everything else is as in MMEngine: the first call copies, ``interval`` skips calls, and buffers are
    averaged with ``update_buffers`` and copied without. On the CPU the averages are the same bit by bit. On a GPU they
    may differ by the rounding of one multiplication and addition.

    Args:
        model (nn.Module): The model to average.
        momentum (float): Share of the new weights, above 0 and below 1. Defaults to 0.0002.
        interval (int): Calls from one update to the next. Defaults to 1.
        device (torch.device, optional): Where the averages are. Defaults to None, as the model.
        update_buffers (bool): Whether buffers are averaged too. Defaults to False.

    Examples:
        >>> custom_hooks = [dict(type='EMAHook', ema_type='PerViTExponentialMovingAverage', momentum=0.001)]
    """

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Note a tensor to move; MMEngine's ``update_parameters`` calls this for each.

        Args:
            averaged_param (Tensor): The average.
            source_param (Tensor): The new weight, on the same device.
            steps (int): Number of calls before this one.
        """
        self._pairs.append((averaged_param, source_param))

    def update_parameters(self, model: nn.Module) -> None:
        """Move towards the model: average ← (1 - momentum) · average + momentum · weight.

        Args:
            model (nn.Module): The model whose weights are averaged.
        """
        self._pairs: list[tuple[Tensor, Tensor]] = []
        super().update_parameters(model)
        if self._pairs:
            averages, sources = zip(*self._pairs)
            torch._foreach_lerp_(averages, sources, self.momentum)
        self._pairs.clear()  # or weights on another device would be held
