"""Counts the kernels that torch starts, without a GPU, and finds what would make the CPU wait for one."""
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pervit_mm.ops.position_per_query import query_position, query_position_backward

OPERATORS = {torch.ops.pervit_mm.query_position.default: query_position._init_fn,
             torch.ops.pervit_mm.query_position_backward.default: query_position_backward._init_fn}

#: Operations whose result decides what the CPU does next, so that it waits for the device.
WAITING = {'_local_scalar_dense', 'item', 'is_nonzero', 'equal', 'nonzero', 'masked_select', '_unique2', 'unique_dim'}


class KernelCount(TorchDispatchMode):
    """Counts operations of torch that do work: all except views and allocations. Each is one kernel, or more.

    On the meta device nothing is computed, and the code takes the path of a GPU. A custom operator there has only the
    shapes of its results. So what it is made of runs in its place.

    Attributes:
        inside (Counter): Operations within the custom operators of the position network, by name.
        outside (Counter): All others.
        waiting (list[str]): Those of ``WAITING``, and copies from or to the CPU. An index by a mask of booleans waits
            too and is not seen, since the meta device refuses it.
    """

    def __init__(self):
        super().__init__()
        self.inside, self.outside, self.waiting = Counter(), Counter(), []
        self._within = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in OPERATORS:
            self._within = True
            with self:
                result = OPERATORS[func](*args, **kwargs)
            self._within = False
            return result
        name = func.overloadpacket.__name__
        to = kwargs.get('device')
        devices = {arg.device.type for arg in args if isinstance(arg, torch.Tensor) and arg.dim()}
        crosses = name == 'copy_' and len(devices) > 1  # from memory of the CPU that is not pinned, it waits
        if name in WAITING or crosses or (name == '_to_copy' and to is not None and devices != {torch.device(to).type}):
            self.waiting.append(name)
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not is_view and not name.startswith(('empty', 'new_empty', 'detach', '_unsafe_view')):
            (self.inside if self._within else self.outside)[name] += 1
        return func(*args, **kwargs)
