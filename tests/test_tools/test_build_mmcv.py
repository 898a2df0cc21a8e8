"""The parts of tools/build_mmcv.py that neither fetch nor compile."""

import dataclasses
import hashlib
import importlib
import sys
import zipfile
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


@pytest.fixture(scope='module')
def recipe():
    """The module build_mmcv_recipe, imported from its own folder as the script does."""
    sys.path.insert(0, str(TOOLS))
    try:
        yield importlib.import_module('build_mmcv_recipe')
    finally:
        sys.path.remove(str(TOOLS))


@pytest.fixture(scope='module')
def build(recipe):
    """The module build_mmcv."""
    return importlib.import_module('build_mmcv')


def test_cache_key_tells_environments_apart(recipe):
    base = ('cpython-311-x86_64-linux-gnu', 'linux-x86_64', '2.14.1+cpu')
    others = [
        ('cpython-312-x86_64-linux-gnu', 'linux-x86_64', '2.14.1+cpu'),
        ('cpython-311-x86_64-linux-gnu', 'linux-aarch64', '2.14.1+cpu'),
        ('cpython-311-x86_64-linux-gnu', 'linux-x86_64', '2.14.1+cu130'),
    ]
    cuda = [('13.0', '9.0'), ('13.0', '8.0;9.0'), ('12.8', '9.0')]
    keys = {recipe.cache_key(*environment) for environment in [base, *others, *((*base, cards) for cards in cuda)]}
    assert len(keys) == 7
    assert recipe.cache_key(*base) == recipe.cache_key(*base)


def test_cache_key_is_one_file_name(recipe):
    key = recipe.cache_key('a/b', 'linux x86', '2.14.1:../c', ('13.0', '8.0;9.0+PTX'))
    assert Path(key).name == key and not {' ', ':', ';'} & set(key)


def test_cache_key_changes_with_the_recipe(recipe, monkeypatch):
    before = recipe.cache_key('abi', 'linux', '2')
    monkeypatch.setattr(recipe, 'RECIPE', recipe.RECIPE + 1)
    assert recipe.cache_key('abi', 'linux', '2') != before


def test_cache_folder_follows_xdg_cache_home(build, tmp_path):
    folder = build.cache_folder({'XDG_CACHE_HOME': str(tmp_path)}, 'key')
    assert folder == tmp_path / 'pervit_mm' / 'wheels' / 'key'
    assert build.cache_folder({'XDG_CACHE_HOME': ''}, 'key') == (
        Path.home() / '.cache' / 'pervit_mm' / 'wheels' / 'key')


def test_sources_that_clash_are_compiled_alone(recipe):
    names = ['roi_align.cpp', 'nms.cpp', 'notes.txt', 'box.cpp', 'psamask.cpp']
    assert recipe.group_sources(names, ['roi_align.cpp', 'psamask.cpp']) == (
        ['box.cpp', 'nms.cpp'], ['psamask.cpp', 'roi_align.cpp'])


def test_other_sources_are_refused(recipe):
    with pytest.raises(recipe.BuildError, match='lack psamask.cpp'):
        recipe.group_sources(['nms.cpp'], ['psamask.cpp'])
    with pytest.raises(recipe.BuildError, match='lack any .cpp file'):
        recipe.group_sources(['nms.hpp'], [])


def test_gather_sources_leaves_few_units_and_loses_no_file(recipe, tmp_path):
    for name in ('box.cpp', 'nms.cpp', 'psamask.cpp', 'helper.hpp'):
        (tmp_path / name).write_text(f'// {name}\n')
    assert recipe.gather_sources(tmp_path, ['psamask.cpp']) == ['gathered.cpp', 'psamask.cpp']
    assert sorted(path.name for path in tmp_path.glob('*.cpp')) == ['gathered.cpp', 'psamask.cpp']
    assert (tmp_path / 'gathered.cpp').read_text() == (
        '#include "box.cpp.inc"\n#include "nms.cpp.inc"\n')
    assert (tmp_path / 'nms.cpp.inc').read_text() == '// nms.cpp\n'
    assert (tmp_path / 'helper.hpp').exists()


def test_only_cpp17_flags_become_cpp20(recipe):
    text = "['-std=c++17']\n['/std:c++17']\n['-std=c++14']\n"
    assert recipe.ask_for_cpp20(text) == "['-std=c++20']\n['/std:c++20']\n['-std=c++14']\n"
    with pytest.raises(recipe.BuildError, match='not the one that this script changes'):
        recipe.ask_for_cpp20('setup()')


def test_an_archive_of_other_content_is_refused(recipe, tmp_path):
    archive = tmp_path / 'mmcv-2.1.0.tar.gz'
    release = dataclasses.replace(recipe.ORIGINAL, sha256=hashlib.sha256(b'official').hexdigest())
    archive.write_bytes(b'official')
    recipe.check_sha256(archive, release)
    archive.write_bytes(b'tampered with')
    with pytest.raises(recipe.BuildError, match='is not the official source distribution'):
        recipe.check_sha256(archive, release)


def test_refused_archive_is_not_unpacked(recipe, build, tmp_path):
    archive = tmp_path / 'mmcv-2.1.0.tar.gz'
    archive.write_bytes(b'tampered with')
    with pytest.raises(build.BuildError, match='sha256'):
        build.build_from_source(recipe.ORIGINAL, archive, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['mmcv-2.1.0.tar.gz']


@pytest.mark.parametrize(('environ', 'cuda', 'rocm', 'route'), [
    ({}, False, False, 'cpu'),
    ({'FORCE_CUDA': '0'}, False, False, 'cpu'),
    ({'FORCE_CUDA': '1'}, False, False, 'cuda'),
    ({}, True, False, 'cuda'),
    ({'FORCE_NPU': '1'}, False, False, 'stock'),
    ({}, True, True, 'stock'),
])
def test_route_follows_the_devices(recipe, environ, cuda, rocm, route):
    assert recipe.choose_route(environ, cuda, rocm) == route


@pytest.mark.parametrize(('output', 'advice'), [
    ('g++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
    ('virtual memory exhausted: Cannot allocate memory', 'MAX_JOBS=1'),
    ('write error: No space left on device', 'TMPDIR'),
    ('fatal error: Python.h: No such file or directory', 'python3-dev'),
    ('cuda/CUDAContextLight.h:10:10: fatal error: cusparse.h: No such file or directory', 'whole CUDA toolkit'),
    ('RuntimeError: The detected CUDA version (12.4) mismatches the version that was used to compilePyTorch', 'nvcc'),
    ('error: expected primary-expression', 'shown below'),
])
def test_failed_build_is_explained(recipe, output, advice):
    assert advice in recipe.explain_failed_build(output)


def test_failed_build_shows_the_error_and_keeps_the_output(build, monkeypatch, tmp_path):
    output = 'compiling\nnms.cpp:7: error: no such thing\nmore\n'
    monkeypatch.setattr(
        build, 'pip', lambda *args, **kwargs: build.subprocess.CompletedProcess(args, 1, output))
    monkeypatch.setattr(build.tempfile, 'tempdir', str(tmp_path))
    with pytest.raises(build.BuildError, match='nms.cpp:7: error: no such thing'):
        build.build_wheel(['mmcv'], tmp_path / 'wheels', {})
    assert [path.read_text() for path in tmp_path.glob('build_mmcv-*.log')] == [output]


def test_a_missing_compiler_is_named(recipe, monkeypatch, tmp_path):
    monkeypatch.delenv('CXX', raising=False)
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(recipe.BuildError, match=r'no C\+\+ compiler .* "apt-get install g'):
        recipe.find_compiler()


def fake_compiler(tmp_path, monkeypatch, status):
    """Set CXX to a program that exits with ``status``."""
    program = tmp_path / 'fake-c++'
    program.write_text(f'#!/bin/sh\necho "unrecognized option"\nexit {status}\n')
    program.chmod(0o755)
    monkeypatch.setenv('CXX', str(program))


def test_an_old_compiler_is_named(recipe, monkeypatch, tmp_path):
    fake_compiler(tmp_path, monkeypatch, status=1)
    with pytest.raises(recipe.BuildError, match=r'does not compile C\+\+20') as caught:
        recipe.find_compiler()
    assert 'unrecognized option' in str(caught.value)


def test_missing_headers_are_named(recipe, monkeypatch, tmp_path):
    fake_compiler(tmp_path, monkeypatch, status=0)
    monkeypatch.setattr(recipe.sysconfig, 'get_path', lambda name: str(tmp_path))
    with pytest.raises(recipe.BuildError, match='headers of Python are missing'):
        recipe.find_compiler()


@pytest.mark.parametrize(('output', 'sentence'), [
    ('ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE', 'wrong sha256'),
    ('ERROR: No matching distribution found for mmcv==2.1.0', 'Check the network'),
])
def test_failed_fetch_is_explained(recipe, build, monkeypatch, tmp_path, output, sentence):
    monkeypatch.setattr(
        build, 'pip', lambda *args, **kwargs: build.subprocess.CompletedProcess(args, 1, output))
    with pytest.raises(build.BuildError, match=sentence) as caught:
        build.fetch_sdist(recipe.ORIGINAL, tmp_path)
    assert output in str(caught.value)


@pytest.mark.parametrize(('name', 'pinned', 'file'), [
    ('ORIGINAL', 'mmcv==2.1.0', 'mmcv-2.1.0.tar.gz'), ('FORK', 'onedl-mmcv==2.3.6', 'onedl_mmcv-2.3.6.tar.gz')])
def test_hash_is_given_to_pip(recipe, build, monkeypatch, tmp_path, name, pinned, file):
    release = getattr(recipe, name)

    def pip(*args, **kwargs):
        wanted = Path(args[args.index('-r') + 1]).read_text()
        assert wanted == f'{pinned} --hash=sha256:{release.sha256}\n'
        target = Path(args[args.index('-d') + 1])
        target.mkdir()
        (target / file).write_bytes(b'')
        return build.subprocess.CompletedProcess(args, 0, '')

    monkeypatch.setattr(build, 'pip', pip)
    assert build.fetch_sdist(release, tmp_path).name == file


def test_kept_wheel_is_whole(build, tmp_path):
    wheel = tmp_path / 'mmcv-2.1.0-any.whl'
    wheel.write_bytes(b'wheel')
    build.keep(wheel, tmp_path / 'cache' / 'key')
    kept = list((tmp_path / 'cache' / 'key').iterdir())
    assert [path.name for path in kept] == [wheel.name]
    assert kept[0].read_bytes() == b'wheel'


def test_wheel_that_cannot_be_kept_is_said(build, tmp_path, capsys):
    (tmp_path / 'cache').write_text('a file where a folder should be')
    wheel = tmp_path / 'mmcv-2.1.0-any.whl'
    wheel.write_bytes(b'wheel')
    build.keep(wheel, tmp_path / 'cache')
    assert 'cannot be kept' in capsys.readouterr().out


def test_damaged_wheel_is_not_tried_out(build, tmp_path):
    wheel = tmp_path / 'mmcv-2.1.0-any.whl'
    wheel.write_bytes(b'no zip file')
    assert 'is damaged' in build.try_out(wheel, tmp_path)


def test_wheel_without_ops_is_found_out(build, tmp_path):
    wheel = tmp_path / 'mmcv-2.1.0-any.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr('mmcv/__init__.py', "__version__ = '2.1.0'\n")
    assert 'mmcv.ops' in build.try_out(wheel, tmp_path)


def test_ops_for_the_cpu_alone_do_not_pass_where_there_is_cuda(build):
    """mmcv has no op for the meta device, as a wheel that was built without a GPU at hand has none for CUDA."""
    pytest.importorskip('mmcv._ext')
    text = build.CHECK.read_text().replace("check('cuda')", "check('meta')")
    with_a_card = text.replace('import torch\n', 'import torch\ntorch.cuda.is_available = lambda: True\n')
    whole, without = (build.run([sys.executable, '-c', code]) for code in (text, with_a_card))
    assert whole.returncode == 0 and '"devices": ["cpu"]' in whole.stdout
    assert without.returncode == 1
    assert without.stdout.strip().endswith('device meta not found.')
    assert 'its ops work on the CPU only, and this machine has CUDA: nms_impl: ' in without.stdout


def provide(build, monkeypatch, **distributions):
    """An environment in which the modules come from these distributions."""
    monkeypatch.setattr(build.importlib.metadata, 'packages_distributions', lambda: distributions)
    monkeypatch.setattr(build, 'pip', lambda *args, **kwargs: pytest.fail('nothing to install'))


@pytest.mark.parametrize(('mmengine', 'tested'), [('mmengine', '2.1.0'), ('onedl-mmengine', '2.3.6')])
def test_mmcv_that_is_there_is_left_alone(build, monkeypatch, capsys, mmengine, tested):
    provide(build, monkeypatch, mmengine=[mmengine])
    monkeypatch.setattr(build, 'check_ops', lambda: ('2.2.0', ''))
    build.install()
    said = capsys.readouterr().out
    assert f'mmcv 2.2.0 with compiled ops is already here (the tested one is {tested}' in said


@pytest.mark.parametrize(('mmengine', 'mmcv'), [('mmengine', 'onedl-mmcv'), ('onedl_mmengine', 'mmcv-lite')])
def test_mmcv_of_the_other_stack_is_not_replaced(build, monkeypatch, mmengine, mmcv):
    provide(build, monkeypatch, mmengine=[mmengine], mmcv=[mmcv])
    monkeypatch.setattr(build, 'check_ops', lambda: (None, 'No module named mmcv._ext'))
    with pytest.raises(build.BuildError, match=f'mmcv comes from {mmcv}'):
        build.install()


@pytest.mark.parametrize(('distributions', 'names_pkg_resources'), [
    (dict(mmengine=['mmengine'], mmcv=['mmcv-lite']), True),
    (dict(mmengine=['onedl-mmengine'], mmcv=['onedl-mmcv']), False)])
def test_pkg_resources_are_asked_for_by_the_original_alone(build, monkeypatch, distributions, names_pkg_resources):
    provide(build, monkeypatch, **distributions)
    monkeypatch.setattr(build, 'check_ops', lambda: (None, 'no ops'))
    monkeypatch.setattr(build.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(build.BuildError, match='must be in this environment first') as caught:
        build.install()
    assert ('pkg_resources' in str(caught.value)) is names_pkg_resources


def test_failure_is_a_sentence(build, monkeypatch, capsys, tmp_path):
    provide(build, monkeypatch, mmengine=['mmengine'], mmcv=['mmcv-lite'])
    monkeypatch.setattr(build, 'check_ops', lambda: (None, 'no ops'))
    monkeypatch.setattr(sys, 'argv', ['build_mmcv.py', '--sdist', str(tmp_path / 'absent')])
    assert build.main() == 1
    assert 'is not a file: name the archive mmcv-2.1.0.tar.gz' in capsys.readouterr().err
