"""Run the fused position kernels in Triton's interpreter and print how far they are from the plain form, as JSON.

Triton reads ``TRITON_INTERPRET`` when it is imported. So this is a process of its own, started by the tests of
:mod:`pervit_mm.ops.position_per_query_triton`.
"""
import json

import torch

from pervit_mm.ops import position_per_query_triton as triton_form
from pervit_mm.ops import use_fused_position
from pervit_mm.ops.position_per_query import query_position
from pervit_mm.ops.position_plain import plain_query_position

#: The interpreter takes about a millisecond for each step of a program, so the grids are small. ``most_keys`` cuts
#: these grids as 256 cuts large ones.
CASES = {
    'two passes, row by row': dict(hw_shape=(2, 5), alike=False, queries_each=5, most_keys=8),
    'two passes, no first norm': dict(hw_shape=(5, 2), kernel=1, first_norm=False, most_keys=8),
    'one pass': dict(hw_shape=(2, 3), heads=8),
    'one pass, two blocks, two slices of channels': dict(hw_shape=(3, 2), kernel=1, blocks=2, channels=20, heads=12,
                                                         alike=False),
    'no last norm': dict(hw_shape=(1, 2), last_norm=False),
    'no norms, two slices of keys': dict(hw_shape=(2, 5), kernel=1, first_norm=False, last_norm=False, most_keys=8),
    'one token': dict(hw_shape=(1, 1)),
}
NAMES = ('hidden', 'factor', 'summand', 'weight', 'bias', 'gamma', 'beta')


def draw(hw_shape, blocks=1, channels=16, heads=4, kernel=3, first_norm=True, last_norm=True, alike=True, device='cpu'):
    """Arguments of :func:`plain_query_position` up to ``cols``, in float32; and those with a gradient, by name."""
    h, w = hw_shape
    shapes = dict(hidden=(channels, 2 * h - 2 + kernel, 2 * w - 2 + kernel), factor=(channels, h, w),
                  summand=(channels, h, w), weight=(heads, channels, kernel, kernel), bias=(heads, ), gamma=(heads, ),
                  beta=(heads, ))
    left_out = (() if first_norm else ('factor', 'summand')) + (() if last_norm else ('gamma', 'beta'))
    made = dict.fromkeys(NAMES)
    for name in (name for name in NAMES if name not in left_out):
        scale = 3 * (channels * kernel**2)**-0.5 if name == 'weight' else 1  # logits of the order of one
        made[name] = (scale * torch.randn(blocks, *shapes[name])).to(device).requires_grad_()
    shares = [torch.rand(n, n) for n in hw_shape]
    rows, cols = (None, None) if alike or not last_norm else ((s / s.sum(1, keepdim=True)).to(device) for s in shares)
    return (*made.values(), rows, cols), {name: t for name, t in made.items() if t is not None}


def differences(hw_shape, queries_each=1000, **options):
    """Largest difference of the operator from the plain form in float64, by name; relative where values exceed 1."""
    tensors, leaves = draw(hw_shape, **options)
    exact = [t if t is None else t.detach().double().requires_grad_(t.requires_grad) for t in tensors]
    found = query_position(*tensors, hw_shape, 1e-5, queries_each, True)[0]
    wanted = plain_query_position(*exact, hw_shape, 1e-5)
    grad = torch.randn_like(found)
    pairs = zip((found.detach(), *torch.autograd.grad(found, list(leaves.values()), grad)),
                (wanted.detach(), *torch.autograd.grad(wanted, [t for t in exact if t is not None and t.requires_grad],
                                                       grad.double())))
    return {name: float((a - b).abs().max() / b.abs().max().clamp_min(1))
            for name, (a, b) in zip(('log_position', *leaves), pairs)}


def on_the_cpu():
    """Register the kernels for the CPU, which only the interpreter can use; returns the calls made and their option."""
    calls, option = [], {}

    def counted(kernel):
        return lambda *args: (calls.append(kernel.__name__), kernel(*args, **option))[1]

    triton_form.DEVICE = 'cpu'
    for name in ('fused_query_position', 'fused_query_position_backward'):
        setattr(triton_form, name, counted(getattr(triton_form, name)))
    return calls, option


def main():
    torch.manual_seed(0)
    calls, option = on_the_cpu()
    found = dict(by_default=differences((2, 2)) and list(calls))
    use_fused_position(True)
    for name, case in CASES.items():
        option['most_keys'] = case.get('most_keys', triton_form.KEYS)
        found[name] = differences(**{key: value for key, value in case.items() if key != 'most_keys'})
    found['turned_on'] = list(calls)
    use_fused_position(False)
    calls.clear()
    found['turned_off'] = differences((2, 2)) and list(calls)
    use_fused_position(True)
    found['turned_on_again'] = differences((1, 1)) and list(calls)
    print(json.dumps(found))


if __name__ == '__main__':
    main()
