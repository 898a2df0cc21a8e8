"""Fashion-MNIST is put in place whole and checked, from any source. The tests need no network."""

import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pervit_mm.datasets import FASHION_MNIST_FILES, fashion_mnist_sources, prepare_fashion_mnist
from pervit_mm.datasets.fashion_mnist import (
    extract_checked,
    install_from,
    md5_of,
    missing_files,
)
from pervit_mm.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONTENTS = {name: name.encode() * 1000 for name in FASHION_MNIST_FILES}
FILES = {name: hashlib.md5(content).hexdigest() for name, content in CONTENTS.items()}


@pytest.fixture
def source(tmp_path):
    """Make a folder of small ``.gz`` files that stand for the data set."""
    folder = tmp_path / 'source'
    folder.mkdir()
    for name, content in CONTENTS.items():
        (folder / f'{name}.gz').write_bytes(gzip.compress(content))
    return folder


@pytest.fixture
def root(tmp_path):
    """Path of the folder to fill. It does not exist yet."""
    return tmp_path / 'data' / 'fashion_mnist'


def contents(root):
    """Read all files of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in root.iterdir()}


def refuse(scratch, log):
    """A source that has nothing."""
    raise UserError('the shelf is empty')


def test_names_are_those_that_mmpretrain_reads():
    datasets = pytest.importorskip('mmpretrain.datasets')
    listed = datasets.FashionMNIST.train_list + datasets.FashionMNIST.test_list
    assert [f'{name}.gz' for name in FASHION_MNIST_FILES] == [name for name, _ in listed]


def test_md5_of_equals_hashlib(tmp_path):
    (tmp_path / 'file').write_bytes(b'pervit')
    assert md5_of(tmp_path / 'file') == hashlib.md5(b'pervit').hexdigest()


def test_missing_files_finds_absent_and_changed_ones(root):
    root.mkdir(parents=True)
    names = list(FILES)
    (root / names[0]).write_bytes(CONTENTS[names[0]])
    (root / names[1]).write_bytes(CONTENTS[names[1]][:-1])
    assert missing_files(root, FILES) == names[1:]


def test_install_from_compressed_and_extracted_files(source, root):
    name = next(iter(FILES))
    (source / f'{name}.gz').unlink()
    (source / name).write_bytes(CONTENTS[name])
    assert install_from(source, root, FILES) == list(FILES)
    assert contents(root) == CONTENTS


def test_install_from_leaves_good_files_alone(source, root):
    install_from(source, root, FILES)
    name = list(FILES)[2]
    before = {path.name: path.stat().st_mtime_ns for path in root.iterdir() if path.name != name}
    (root / name).write_bytes(b'broken')
    assert install_from(source, root, FILES) == [name]
    assert contents(root) == CONTENTS
    for other, when in before.items():
        assert (root / other).stat().st_mtime_ns == when


def test_install_from_names_what_the_folder_lacks(source, root):
    (source / 'train-labels-idx1-ubyte.gz').unlink()
    with pytest.raises(UserError, match='neither train-labels-idx1-ubyte.gz nor train-labels'):
        install_from(source, root, FILES)


@pytest.mark.parametrize('damage', [lambda data: data[:-20], lambda data: b'not gzip at all'])
def test_damaged_archive_leaves_nothing_behind(source, root, damage):
    name = next(iter(FILES))
    archive = source / f'{name}.gz'
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(UserError, match='damaged or incomplete'):
        extract_checked(archive, root / name, FILES[name])
    assert contents(root) == {}


def test_wrong_content_does_not_replace_what_is_there(source, root):
    name = next(iter(FILES))
    root.mkdir(parents=True)
    (root / name).write_bytes(b'as it was')
    (source / f'{name}.gz').write_bytes(gzip.compress(b'something else'))
    with pytest.raises(UserError, match=f'md5 sum .* but that of {name} is {FILES[name]}'):
        extract_checked(source / f'{name}.gz', root / name, FILES[name])
    assert contents(root) == {name: b'as it was'}


def test_interrupted_extraction_leaves_nothing_behind(source, root, monkeypatch):
    name = next(iter(FILES))

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr('pervit_mm.utils.atomic_write.os.replace', interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract_checked(source / f'{name}.gz', root / name, FILES[name])
    assert contents(root) == {}


def test_prepare_takes_the_first_source_that_works_and_only_once(source, root):
    said, asked = [], []

    def good(scratch, log):
        asked.append(scratch)
        assert list(scratch.iterdir()) == []
        return source

    sources = [refuse, good, lambda scratch, log: pytest.fail('one source too many')]
    assert prepare_fashion_mnist(root, sources=sources, files=FILES, log=said.append) == list(FILES)
    assert contents(root) == CONTENTS
    assert not asked[0].exists()
    assert prepare_fashion_mnist(root, sources=sources, files=FILES, log=said.append) == []
    assert len(asked) == 1
    assert said[-1] == f'Fashion-MNIST is in {root}, whole and checked.'


def test_prepare_goes_on_when_a_source_has_wrong_files(source, root, tmp_path):
    wrong = tmp_path / 'wrong'
    wrong.mkdir()
    for name in FILES:
        (wrong / f'{name}.gz').write_bytes(gzip.compress(b'another data set'))
    sources = [lambda scratch, log: wrong, lambda scratch, log: source]
    prepare_fashion_mnist(root, sources=sources, files=FILES, log=lambda sentence: None)
    assert contents(root) == CONTENTS


def test_prepare_says_what_to_put_where(root):
    with pytest.raises(UserError) as caught:
        prepare_fashion_mnist(root, sources=[refuse], files=FILES, log=lambda sentence: None)
    message = str(caught.value)
    assert 'the shelf is empty' in message
    assert 'dataset-fashion-mnist' in message and '--source' in message and str(root) in message
    for name, md5 in FILES.items():
        assert f'{name}  (extracted, md5 {md5})' in message


def test_prepare_from_a_folder_of_the_user_tries_nothing_else(source, root):
    sources = [lambda scratch, log: pytest.fail('not asked for')]
    prepare_fashion_mnist(root, source, sources, FILES, log=lambda sentence: None)
    assert contents(root) == CONTENTS


def test_prepare_refuses_a_source_that_is_no_folder(root, tmp_path):
    with pytest.raises(ValueError, match='source=.*absent.* is not a folder'):
        prepare_fashion_mnist(root, tmp_path / 'absent', files=FILES)


def test_the_folder_is_found_in_the_listing_of_a_package():
    listing = '/.\n/usr\n/usr/share/fm\n/usr/share/fm/train-images-idx3-ubyte.gz\n'
    assert fashion_mnist_sources.folder_in_listing(listing) == Path('/usr/share/fm')
    with pytest.raises(UserError, match='lists no train-images'):
        fashion_mnist_sources.folder_in_listing('/usr/share/doc\n')


def test_run_command_reports_the_end_of_the_output():
    run_command = fashion_mnist_sources.run_command
    assert run_command([sys.executable, '-c', 'print("well")']).strip() == 'well'
    with pytest.raises(UserError, match='failed: E: no such package'):
        run_command([sys.executable, '-c', 'raise SystemExit("E: no such package")'])
    with pytest.raises(UserError, match='no-such-program cannot be run'):
        run_command(['no-such-program'])


def test_package_is_installed_after_an_update_of_the_lists(monkeypatch):
    commands = []

    def run_command(command, cwd=None):
        commands.append(command[:2])
        if commands == [['apt-get', 'install']]:
            raise UserError('Unable to locate package')
        return '/usr/share/fm/train-images-idx3-ubyte.gz' if command[0] == 'dpkg' else ''

    monkeypatch.setattr(fashion_mnist_sources, 'run_command', run_command)
    monkeypatch.setattr(fashion_mnist_sources.shutil, 'which', lambda name: name)
    monkeypatch.setattr(fashion_mnist_sources.os, 'geteuid', lambda: 0)
    folder = fashion_mnist_sources.from_package_install(Path(), lambda sentence: None)
    assert folder == Path('/usr/share/fm')
    assert commands == [['apt-get', 'install'], ['apt-get', 'update'], ['apt-get', 'install'],
                        ['dpkg', '-L']]


def test_nothing_is_installed_without_root(monkeypatch):
    monkeypatch.setattr(fashion_mnist_sources.shutil, 'which', lambda name: name)
    monkeypatch.setattr(fashion_mnist_sources.os, 'geteuid', lambda: 1000)
    with pytest.raises(UserError, match='takes root'):
        fashion_mnist_sources.from_package_install(Path(), lambda sentence: None)


def test_the_tool_fails_with_a_sentence(tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'prepare_fashion_mnist.py'), '--root', 'data',
         '--source', 'absent'],
        cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True)
    assert result.returncode == 1
    assert "source='absent' is not a folder" in result.stderr
    assert 'Traceback' not in result.stderr
