"""Derivatives beyond the ordinary backward: of higher order, forward mode, and the transforms of ``torch.func``.

The fast operators have one derivative, for ordinary autograd. Where somebody asks for another one, the same result is
written out in torch's own operations, which have them all. That takes more time and memory, and only those pay for it
who ask.
"""
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is at work.

    The custom operators don't know them. ``torch.func`` would refuse an operator, and forward mode would lose its
    tangents without a word. While a compiler traces, the answer is no: its graphs keep the operators.
    """
    if torch.compiler.is_compiling():
        return False
    # torch.func.jvp is in both. torch has no public question for either.
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def differentiable_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor | None],
                             grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again, as often as ``function`` can.

    An operator's backward calls it if gradients are on, which is so under ``create_graph=True`` alone.

    Args:
        function (Callable): What the operator computes, written in differentiable operations.
        inputs (Sequence[Tensor, optional]): Its arguments.
        grad (Tensor): Gradient of its result.

    Returns:
        tuple[Tensor, optional]: Gradient of each input; None for one that is None or requires no gradient.
    """
    # Views, because one tensor may be passed twice and each argument has its own share of the gradient.
    inputs = [t if t is None else t.view_as(t) for t in inputs]
    needed = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(function(*inputs), needed, grad, create_graph=True))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in inputs)
