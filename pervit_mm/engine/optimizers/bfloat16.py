"""Mixed precision that needs no GPU."""
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.nn as nn
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from ...ops import autocast_layer_norm_in_float32
from ...utils.errors import UserError, UserTypeError


def _to_float32(output):
    if isinstance(output, (list, tuple)):
        items = [_to_float32(item) for item in output]
        return type(output)(*items) if hasattr(output, '_fields') else type(output)(items)  # a namedtuple
    return output.float() if isinstance(output, torch.Tensor) and output.is_floating_point() else output


@contextmanager
def _bfloat16_forward(module: nn.Module, device_type: str) -> Iterator[None]:
    """Replace ``forward`` of one module, on the instance, in front of the method of its class, for a while."""
    forward, own = module.forward, vars(module).get('forward')

    def in_bfloat16(*args, **kwargs):
        with torch.autocast(device_type, dtype=torch.bfloat16):
            output = forward(*args, **kwargs)
        return _to_float32(output)

    module.forward = in_bfloat16
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:  # such as a compiled one
            module.forward = own


@OPTIM_WRAPPERS.register_module()
class PerViTBFloat16OptimWrapper(OptimWrapper):
    """MMEngine's ``OptimWrapper`` with the forward pass under bfloat16 autocast, on any device.

    MMEngine's ``AmpOptimWrapper`` refuses to be built without a GPU, though its autocast knows the CPU, and CPUs with
    bfloat16 instructions gain from it. bfloat16 has the exponents of float32, so there is no loss to scale; weights,
    gradients and optimizer states stay float32. LayerNorm runs in float32, on the CPU too, where torch would get its
    gradients wrong: see :func:`pervit_mm.ops.autocast_layer_norm_in_float32`.

    Args:
        modules (Sequence[str]): Submodules of the model that run in bfloat16, such as ``('backbone', 'neck')``; tensors
            that they return, in lists and tuples too, are float32 again. For detectors on the CPU, where mmcv's
            RoIAlign and NMS know float32 alone, and to keep the loss in float32: autocast on the CPU lets a softmax
            have 8 bits. Defaults to (), the whole model, loss included.
        **kwargs: Arguments of ``OptimWrapper``.

    Raises:
        TypeError: If ``modules`` is no sequence of strings.
        UserError: While training, if the model has no such submodule.

    Examples:
        >>> optim_wrapper = dict(type='PerViTBFloat16OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
    """

    def __init__(self, modules: Sequence[str] = (), **kwargs) -> None:
        if isinstance(modules, str) or not all(isinstance(name, str) for name in modules):
            raise UserTypeError("modules must be a sequence of the names of submodules, such as ('backbone', 'neck'), "
                                f'got {modules!r}')
        super().__init__(**kwargs)
        autocast_layer_norm_in_float32()
        self.modules = tuple(dict.fromkeys(modules))

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """As ``OptimWrapper``'s, under autocast.

        Args:
            model (nn.Module): The model in training, or its wrapper.
        """
        inner = model.module if is_model_wrapper(model) else model
        device_type = next(inner.parameters()).device.type
        with super().optim_context(model), ExitStack() as stack:
            if not self.modules:
                stack.enter_context(torch.autocast(device_type, dtype=torch.bfloat16))
            for name in self.modules:
                try:
                    module = inner.get_submodule(name)
                except AttributeError:
                    raise UserError(f'modules names {name!r}, which {type(inner).__name__} does not have; at its top '
                                    f'are {[key for key, _ in inner.named_children()]}') from None
                stack.enter_context(_bfloat16_forward(module, device_type))
            yield
