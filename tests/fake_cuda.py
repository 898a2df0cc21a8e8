"""A CUDA device that isn't there: tensors on ``cuda:0`` that have a shape and a type, and no values.

torch's fake tensors refuse to mix devices as a GPU does, so they show on the CPU what would fail on CUDA alone. What
they can't show: values, kernels, and the inside of a custom operator, which has a form of its own for fake tensors.
"""
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.autograd.function import BackwardCFunction

CUDA = torch.device('cuda:0')


@contextmanager
def fake_cuda():
    """Context in which new tensors are fake, and autocast on CUDA may be switched on. Gives what :func:`move` takes."""
    # Outside of autograd's engine, recomputation would count every tensor that it restores as another backward.
    with patch.object(torch.cuda.amp.common, 'amp_definitely_not_available', lambda: False), \
            patch.object(torch._C, '_current_graph_task_id', lambda: 0), FakeTensorMode() as mode:
        yield mode


def move(module, mode):
    """Move a module of real tensors to the fake device. torch's own ``to`` knows no way from real to fake."""
    for part in module.modules():
        for name, param in part._parameters.items():
            if param is not None:
                part._parameters[name] = nn.Parameter(fake(param, mode), param.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = fake(buffer, mode)
    return module


def fake(tensor, mode):
    """A fake tensor like a real one."""
    with unset_fake_temporarily():
        return FakeTensor(mode, tensor.detach().to('meta'), CUDA)


def backward(loss):
    """Run backward by calling the nodes of the graph. autograd's engine needs a thread of a real device."""
    nodes, waiting = [loss.grad_fn], {loss.grad_fn: 0}
    for node in nodes:
        for below, _ in node.next_functions:
            if below is not None:
                if below not in waiting:
                    nodes.append(below)
                waiting[below] = waiting.get(below, 0) + 1
    grads, ready = {loss.grad_fn: {0: torch.ones_like(loss)}}, [loss.grad_fn]
    while ready:
        node = ready.pop()
        mine = grads.pop(node, {})
        found = _call(node, [mine.get(i) for i in range(len(node._input_metadata))]) if mine else ()
        for i, (below, output) in enumerate(node.next_functions):
            if below is None:
                continue
            grad = found[i] if i < len(found) else None
            if grad is not None:
                wanted = below._input_metadata[output]
                assert grad.device == wanted.device, (node, grad.device)
                grad = grad.sum_to_size(wanted.shape).to(wanted.dtype)
                sums = grads.setdefault(below, {})
                sums[output] = sums[output] + grad if output in sums else grad
            waiting[below] -= 1
            if not waiting[below]:
                ready.append(below)


def _call(node, grads):
    """Gradients of a node's inputs. A node of a Python function has its own name for the call."""
    with torch.no_grad():
        found = (node.apply if isinstance(node, BackwardCFunction) else node)(*grads)
    return found if isinstance(found, tuple) else (found, )
