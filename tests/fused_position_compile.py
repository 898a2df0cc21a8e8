"""Compile the fused position kernels ahead of time, for cards that need not be there, and print what they take."""
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from fused_position_run import draw

from pervit_mm.ops import position_per_query_triton as triton_form

#: D and nH of the zoo's models.
SIZES = {'tiny': (16, 4), 'small': (32, 8), 'medium': (48, 12)}
#: Compute capability of an A100 and of an H100.
CAPABILITIES = (80, 90)
#: Grids and options that together reach every branch of the kernels.
VARIANTS = (
    ((14, 14), {}),
    ((20, 20), dict(alike=False)),
    ((7, 7), dict(first_norm=False, alike=False)),
    ((20, 20), dict(first_norm=False, last_norm=False)),
    ((14, 14), dict(last_norm=False, kernel=1)),
)
KERNELS = ('logits', 'normalize', 'logits_gradient', 'hidden_gradient', 'weight_gradient')


def launches(size, hw_shape, **options):
    """What inference and a training step of all 12 blocks would launch: kernels and their arguments by name."""
    found = []

    class Recorder:

        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            return lambda *args, **constants: found.append(
                (self.kernel, dict(zip(self.kernel.arg_names, args)) | constants))

    channels, heads = SIZES[size]
    tensors, _ = draw(hw_shape, blocks=12, channels=channels, heads=heads, device='meta', **options)
    kernels = triton_form._kernels()
    recorders = SimpleNamespace(**{name: Recorder(getattr(kernels, name)) for name in KERNELS})
    with patch.object(triton_form, '_kernels', lambda: recorders), torch.no_grad():
        triton_form.fused_query_position(*tensors, hw_shape, 1e-5, 10**6, False)
        made = triton_form.fused_query_position(*tensors, hw_shape, 1e-5, 10**6, True)
        triton_form.fused_query_position_backward(*made, *tensors[:4], *tensors[5:], hw_shape, 10**6)
    return found


def resources(kernel, arguments, capability):
    """Registers and bytes of stack of a thread. A kernel whose registers spill has a stack."""
    import triton
    signature, constants, aligned = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = '*fp32'
            aligned[place, ] = [['tt.divisibility', 16]]  # so are tensors of torch, and a launch says it
        elif value is None or parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = 'constexpr', value
        else:
            signature[parameter.name] = 'fp32' if isinstance(value, float) else 'i32'
    target = triton.backends.compiler.GPUTarget('cuda', capability, 32)
    compiled = triton.compile(triton.compiler.ASTSource(kernel, signature, constants, aligned), target=target)
    reader = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.asm['cubin'])
        file.flush()
        usage = subprocess.run([reader, '-res-usage', file.name], capture_output=True, text=True, check=True).stdout
    numbers = dict(word.split(':') for word in usage.split() if word.startswith(('REG:', 'STACK:', 'LOCAL:')))
    return int(numbers['REG']), int(numbers['STACK']) + int(numbers['LOCAL'])


def main():
    for size in SIZES:
        for hw_shape, options in VARIANTS:
            for kernel, arguments in launches(size, hw_shape, **options):
                for capability in CAPABILITIES:
                    registers, stack = resources(kernel, arguments, capability)
                    print(f'{size:6} {hw_shape} sm_{capability} {kernel.__name__:15} {registers:3} registers, '
                          f'{stack} bytes of stack', flush=True)


if __name__ == '__main__':
    main()
