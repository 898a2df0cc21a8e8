"""Shared fixtures. The number of threads is fixed, because machines have few cores and sums depend on it."""
import json
import logging
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_configs import read
from mmengine.registry import DefaultScope

import pervit_mm  # noqa: F401  (registers everything)

DATA = Path(__file__).parent / 'data'
#: A PerViT that runs in seconds and has every kind of part: two stages, a change of width, stride 4.
TINY_ARCH = dict(embed_dims=(16, 24), depths=(2, 1), num_heads=2, stem_channels=(8, ))
#: Parameters of a test that runs on the CPU, and again on CUDA where there is some.
DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.cuda)]


def pytest_collection_modifyitems(items):
    """Skip the tests marked ``cuda`` where no CUDA device is visible. ``make test`` has a pass of its own for them."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker('cuda'):
            item.add_marker(pytest.mark.skip(reason='needs a CUDA device'))


@pytest.fixture(autouse=True, scope='session')
def _quiet_and_pinned():
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', 2)))
    # MMEngine prints a line for every parameter that init_weights fills.
    logging.getLogger('mmengine').setLevel(logging.WARNING)
    from mmengine.logging import MMLogger
    MMLogger.get_instance('mmengine').setLevel(logging.WARNING)  # with more arguments it warns if it is there already


@pytest.fixture(scope='module')
def one_thread():
    """On tensors this small, a second thread only costs time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def float32_convolutions():
    """On CUDA, convolutions in float32 instead of TF32. Without ``enabled=True`` cuDNN would be off."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def _no_scope():
    """A runner sets its default scope for the whole process. Each test starts without one, whatever ran before it."""
    DefaultScope._instance_dict.clear()


@pytest.fixture
def scope(request):
    """Default scope during a test: that of the dense config that the test's parameter ``name`` names."""
    with DefaultScope.overwrite_default_scope(read(request.getfixturevalue('name')).default_scope):
        yield


def golden_value(key, shape):
    """One tensor of the reference run, drawn from a generator seeded with its key's CRC-32 (tests/data/README.md)."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith('num_batches_tracked'):
        return torch.tensor(1)
    draw = rng.standard_normal(shape)
    if key.endswith('running_var'):
        draw = 0.5 + np.abs(draw)
    elif key.endswith(('running_mean', 'bias')):
        draw = 0.1 * draw
    elif len(shape) == 1:
        draw = 1 + 0.2 * draw
    else:
        gain = 1.0 if 'activation' in key or 'rpe_proj' in key else 0.7
        draw = gain * draw / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(draw.astype(np.float32))


def official_keys(size):
    """``{key: shape}`` of an official checkpoint."""
    return json.loads((DATA / f'pervit_{size}_keys.json').read_text())


def official_state(size):
    """State dict in the layout of an official checkpoint, with the stand-in weights of the reference run."""
    return {key: golden_value(key, tuple(shape)) for key, shape in official_keys(size).items()}


@pytest.fixture(scope='session')
def golden():
    """What the authors' code returned for ``official_state('tiny')``."""
    return np.load(DATA / 'pervit_tiny_reference.npz')


def naming(name):
    """``msg`` for ``torch.testing.assert_close`` that begins with the name of the tensor."""
    return lambda message: f'{name}: {message}'


def randomize(model, scale=0.3):
    """Give every parameter random values, so that no comparison is made with weights of zeros and ones."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, param in model.named_parameters():
            noise = torch.randn(param.shape, generator=generator)
            fan_in = max(1, param[0].numel()) if param.dim() > 1 else 1
            param.copy_((1 if name.endswith('weight') and param.dim() == 1 else 0) + scale * noise if param.dim() ==
                        1 else noise / fan_in**0.5)
        for name, buffer in model.named_buffers():
            if name.endswith('running_var'):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
            elif name.endswith('running_mean'):
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
    return model
