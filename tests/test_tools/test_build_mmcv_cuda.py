"""The parts of tools/build_mmcv.py for CUDA: cards, toolkit and environment. Nothing is compiled."""
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


@pytest.fixture(scope='module')
def cuda():
    """The module build_mmcv_cuda, imported from its own folder as the script does."""
    sys.path.insert(0, str(TOOLS))
    try:
        yield importlib.import_module('build_mmcv_cuda')
    finally:
        sys.path.remove(str(TOOLS))


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)


def make_toolkit(folder, *headers):
    """A folder with an nvcc and some headers."""
    touch(folder / 'bin' / 'nvcc')
    for header in headers:
        touch(folder / 'include' / header)
    return folder


def fake_torch(root, cards=(), version='13.0'):
    """A torch of some version of CUDA that sees some cards."""
    return SimpleNamespace(
        __file__=str(root / 'torch' / '__init__.py'), __version__='2.14.1+cu130', version=SimpleNamespace(cuda=version),
        cuda=SimpleNamespace(device_count=lambda: len(cards), get_device_capability=lambda i: cards[i]))


@pytest.mark.parametrize(('given', 'cards', 'expected'), [
    (None, [(9, 0)], '9.0'),
    (None, [(10, 0), (9, 0), (10, 0)], '9.0;10.0'),
    ('native', [(8, 6)], '8.6'),
    ('8.0;9.0+PTX', [(8, 6)], '8.0;9.0+PTX'),
    ('Hopper', [], 'Hopper'),
])
def test_architectures_are_those_of_the_cards_or_of_the_variable(cuda, given, cards, expected):
    environ = {} if given is None else {'TORCH_CUDA_ARCH_LIST': given}
    assert cuda.architectures(environ, cards) == expected


def test_architectures_must_be_named_without_a_card(cuda):
    with pytest.raises(cuda.BuildError, match='no card is visible here: .* TORCH_CUDA_ARCH_LIST, .*8.0;9.0'):
        cuda.architectures({'TORCH_CUDA_ARCH_LIST': ' '}, [])


def test_toolkit_is_the_one_named_or_that_of_nvcc(cuda, tmp_path):
    named, on_path, usual = (make_toolkit(tmp_path / name, 'cuda_runtime.h') for name in ('named', 'path', 'usual'))
    path = {'PATH': str(on_path / 'bin')}
    assert cuda.find_toolkit({**path, 'CUDA_HOME': str(named)}, '13.0', usual) == named
    assert cuda.find_toolkit(path, '13.0', usual) == on_path
    assert cuda.find_toolkit({'PATH': ''}, '13.0', usual) == usual


def test_a_launcher_of_nvcc_is_not_taken_for_the_toolkit(cuda, tmp_path):
    launcher, usual = make_toolkit(tmp_path / 'local'), make_toolkit(tmp_path / 'usual', 'cuda_runtime.h')
    path = {'PATH': str(launcher / 'bin')}
    assert cuda.find_toolkit(path, '13.0', usual) == usual
    assert cuda.find_toolkit(path, '13.0', tmp_path / 'absent') == launcher


def test_a_missing_nvcc_is_named(cuda, tmp_path):
    (tmp_path / 'named').mkdir()
    with pytest.raises(cuda.BuildError, match='no nvcc .*named.*: install the CUDA toolkit 13.0, or name .* CUDA_HOME'):
        cuda.find_toolkit({'CUDA_HOME': str(tmp_path / 'named')}, '13.0')


def test_headers_of_torchs_wheels_help_a_toolkit_without_its_libraries(cuda, tmp_path):
    headers = tmp_path / 'nvidia' / 'cu13' / 'include'
    for name in ('cublas_v2.h', 'cusparse.h'):
        touch(headers / name)
    whole = make_toolkit(tmp_path / 'whole', 'cuda_runtime.h', 'cusparse.h')
    assert cuda.library_headers(whole, tmp_path) == []
    assert cuda.library_headers(make_toolkit(tmp_path / 'small', 'cuda_runtime.h'), tmp_path) == [headers]


def test_a_build_for_cuda_is_asked_for_by_variables(cuda, tmp_path):
    whole = make_toolkit(tmp_path / 'whole', 'cuda_runtime.h', 'cusparse.h')
    variables = cuda.cuda_variables({'CUDA_HOME': str(whole)}, fake_torch(tmp_path, [(9, 0)]))
    assert variables == {'FORCE_CUDA': '1', 'CUDA_HOME': str(whole), 'TORCH_CUDA_ARCH_LIST': '9.0'}
    small = make_toolkit(tmp_path / 'small', 'cuda_runtime.h')
    touch(tmp_path / 'nvidia' / 'cu13' / 'include' / 'cusparse.h')
    variables = cuda.cuda_variables({'CUDA_HOME': str(small), 'CPATH': '/mine'}, fake_torch(tmp_path, [(9, 0)]))
    assert variables['CPATH'] == f'/mine:{tmp_path}/nvidia/cu13/include'


def test_torch_for_the_cpu_alone_builds_nothing_for_cuda(cuda, tmp_path):
    with pytest.raises(cuda.BuildError, match='built for the CPU alone: unset FORCE_CUDA'):
        cuda.cuda_variables({'FORCE_CUDA': '1'}, fake_torch(tmp_path, version=None))
