"""The fused Triton kernels against the plain form: in Triton's interpreter, compiled for cards, and on a card."""
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fused_position_compile import CAPABILITIES, SIZES, launches, resources
from fused_position_run import CASES, differences, draw

from pervit_mm import ops
from pervit_mm.ops import use_fused_position
from pervit_mm.ops.position_per_query import query_position
from pervit_mm.ops.position_per_query_triton import VARIABLE, _read_variable, fused_query_position
from pervit_mm.utils.errors import UserError

needs_triton = pytest.mark.skipif(importlib.util.find_spec('triton') is None, reason='needs Triton')


@pytest.fixture(scope='module')
def interpreted():
    """What :mod:`fused_position_run` prints."""
    script = Path(__file__).parents[1] / 'fused_position_run.py'
    done = subprocess.run([sys.executable, script], env={**os.environ, 'TRITON_INTERPRET': '1'}, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_close(found, at_most):
    """The bias cancels in the last norm, so its gradient is zero there, and all that is found is rounding."""
    exact = {name: value for name, value in found.items() if name != 'bias' or 'gamma' not in found}
    assert max(exact.values()) < at_most, found
    assert found['bias'] < 50 * at_most


@needs_triton
@pytest.mark.parametrize('case', CASES)
def test_log_position_and_gradients_equal_the_plain_form_in_float64(interpreted, case):
    assert_close(interpreted[case], 1e-5)


@needs_triton
def test_kernels_run_only_while_they_are_turned_on(interpreted):
    one_step = ['fused_query_position', 'fused_query_position_backward']
    assert interpreted['by_default'] == interpreted['turned_off'] == []
    assert interpreted['turned_on'] == one_step * len(CASES)
    assert interpreted['turned_on_again'] == one_step


@needs_triton
@pytest.mark.parametrize('capability', CAPABILITIES)
def test_no_register_spills_in_the_widest_model_of_the_zoo(capability, monkeypatch, tmp_path):
    """In a training step. ``python tests/fused_position_compile.py`` compiles all sizes and options."""
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    found = {kernel.__name__: resources(kernel, arguments, capability)
             for kernel, arguments in launches('medium', (14, 14))[1:]}  # the first is inference's
    assert set(found) == {'logits', 'logits_gradient', 'hidden_gradient', 'weight_gradient'}
    assert all(stack == 0 for _, stack in found.values()), found


def test_turning_them_on_without_triton_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, 'triton', None)
    monkeypatch.delitem(sys.modules, 'pervit_mm.ops.position_per_query_kernels', raising=False)
    monkeypatch.delattr(ops, 'position_per_query_kernels', raising=False)
    with pytest.raises(UserError, match='needs Triton, which cannot be imported.*pip install triton'):
        use_fused_position(True)


def test_the_environment_variable_turns_them_on_and_leaves_triton_to_the_first_call():
    code = ('import sys, torch; from pervit_mm.ops.position_per_query import query_position; '
            'print(torch._C._dispatch_has_kernel_for_dispatch_key(query_position._qualname, "CUDA"), '
            '"triton" in sys.modules)')
    out = subprocess.run([sys.executable, '-c', code], env={**os.environ, VARIABLE: '1'}, capture_output=True,
                         text=True, check=True).stdout
    assert out.split() == ['True', 'False']


def test_another_value_of_the_environment_variable_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, 'yes')
    with pytest.raises(UserError, match="^PERVIT_FUSED_POSITION='yes' must be 1, .* or 0"):
        _read_variable()


@needs_triton
def test_other_types_than_float32_are_refused():
    tensors, _ = draw((1, 2))
    tensors = [t if t is None else t.double() for t in tensors]
    with pytest.raises(UserError, match='dtype=torch.float64: .* float32 alone'):
        fused_query_position(*tensors, (1, 2), 1e-5, 1, False)


@pytest.mark.cuda
@needs_triton
@pytest.mark.parametrize('hw_shape', [(14, 14), (7, 7), (20, 24)])
@pytest.mark.parametrize('size', SIZES)
def test_a_card_gives_what_the_plain_form_gives_and_the_same_each_time(size, hw_shape):
    channels, heads = SIZES[size]
    options = dict(channels=channels, heads=heads, alike=hw_shape != (20, 24), blocks=2, device='cuda')
    use_fused_position(True)
    try:
        assert_close(differences(hw_shape, **options), 1e-4)
        tensors, leaves = draw(hw_shape, **options)
        grad = torch.randn(2, heads, *hw_shape, *hw_shape, device='cuda')
        runs = []
        for _ in range(2):
            log_position = query_position(*tensors, hw_shape, 1e-5, 1000, True)[0]
            runs.append((log_position, *torch.autograd.grad(log_position, list(leaves.values()), grad)))
        assert all(torch.equal(a, b) for a, b in zip(*runs))
    finally:
        use_fused_position(False)
