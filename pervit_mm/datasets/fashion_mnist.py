"""Put the real Fashion-MNIST where MMPretrain's ``FashionMNIST`` reads it.

MMPretrain 1.2.0 looks for the four *extracted* idx files directly in ``data_root``. If they are there, it starts no
download. It does not check what is in them, so this module does. The ``.gz`` files of Debian's package differ from
those of MMPretrain's list, but the extracted files are the same. So the sums below are of the extracted files, and they
hold for every source.
"""

import gzip
import hashlib
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..utils.atomic_write import replacing
from ..utils.errors import UserError, told
from .fashion_mnist_sources import DEBIAN_PACKAGE, SOURCES, from_package_install

# Extracted file -> its md5 sum. 60,000 training and 10,000 test images, and their labels.
FASHION_MNIST_FILES = {
    'train-images-idx3-ubyte': 'f4a8712d7a061bf5bd6d2ca38dc4d50a',
    'train-labels-idx1-ubyte': '9018921c3c673c538a1fc5bad174d6f9',
    't10k-images-idx3-ubyte': '8181f5470baa50b63fa0f6fddb340f0a',
    't10k-labels-idx1-ubyte': '15d484375f8d13e6eb1aabb0c3f46965',
}
_CHUNK = 1 << 20


def md5_of(path: str | Path) -> str:
    """Compute a file's md5 sum.

    Args:
        path (str | Path): The file.

    Returns:
        str: The sum in hexadecimal digits.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, 'rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def missing_files(root: str | Path, files: Mapping[str, str] = FASHION_MNIST_FILES) -> list[str]:
    """List the data files that are absent, incomplete or changed.

    Args:
        root (str | Path): The folder that MMPretrain's ``data_root`` names.
        files (Mapping[str, str]): File names and md5 sums.

    Returns:
        list[str]: Names of the files that are not there with the right content, in the order of ``files``.
    """
    root = Path(root)
    return [
        name for name, md5 in files.items()
        if not (root / name).is_file() or md5_of(root / name) != md5
    ]


def check_fashion_mnist(folder: str | Path, files: Mapping[str, str] = FASHION_MNIST_FILES) -> None:
    """Check that Fashion-MNIST is whole, ahead of drawing images from its items.

    Args:
        folder (str | Path): The folder with the extracted files, the argument ``fashion_mnist`` of the caller.
        files (Mapping[str, str]): File names and md5 sums.

    Raises:
        UserError: If a file is absent, incomplete or changed.
    """
    if missing := missing_files(folder, files):
        raise UserError(f'fashion_mnist={str(folder)!r} lacks {", ".join(missing)}, whole and extracted: run "make '
                        'data" or tools/prepare_fashion_mnist.py, or name the folder that has them.')


def extract_checked(source: str | Path, target: str | Path, md5: str) -> None:
    """Copy or decompress one file to ``target``, but only if its content is whole and right.

    The content is written beside ``target`` and renamed if its sum is right. So an interrupted run leaves ``target``
    as it was.

    Args:
        source (str | Path): A ``.gz`` file, or the extracted file.
        target (str | Path): Place of the extracted file.
        md5 (str): The sum that the extracted content must have.

    Raises:
        UserError: If ``source`` cannot be decompressed or its content has another sum.
    """
    source, target = Path(source), Path(target)
    with told(f'the folder {str(target.parent)!r} cannot be made'):
        target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.md5(usedforsecurity=False)
    opener = gzip.open if source.suffix == '.gz' else open
    with replacing(target) as writer:
        try:
            with opener(source, 'rb') as reader:
                while chunk := reader.read(_CHUNK):
                    digest.update(chunk)
                    writer.write(chunk)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(
                f'{source} is damaged or incomplete ({error}): fetch it again') from error
        if digest.hexdigest() != md5:
            raise UserError(
                f'{source} holds something else: the md5 sum of its content is '
                f'{digest.hexdigest()}, but that of {target.name} is {md5}')


def install_from(
        source: str | Path,
        root: str | Path,
        files: Mapping[str, str] = FASHION_MNIST_FILES) -> list[str]:
    """Put the files that ``root`` lacks into it, from a folder that has them.

    Args:
        source (str | Path): A folder with the files, extracted or as ``.gz``.
        root (str | Path): The folder that MMPretrain's ``data_root`` names.
        files (Mapping[str, str]): File names and md5 sums.

    Returns:
        list[str]: The names that were put in place; empty if everything was there.

    Raises:
        UserError: If ``source`` lacks a file or has one with another content.
    """
    source, root = Path(source), Path(root)
    placed = missing_files(root, files)
    for name in placed:
        candidates = [source / f'{name}.gz', source / name]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise UserError(f'{source} has neither {name}.gz nor {name}')
        extract_checked(found, root / name, files[name])
    return placed


def prepare_fashion_mnist(
        root: str | Path = 'data/fashion_mnist',
        source: str | Path | None = None,
        sources: Sequence[Callable[[Path, Callable[[str], None]], Path]] = SOURCES,
        files: Mapping[str, str] = FASHION_MNIST_FILES,
        log: Callable[[str], None] = print,
        install: bool = False) -> list[str]:
    """Make sure that the extracted and checked files of Fashion-MNIST are in ``root``.

    Args:
        root (str | Path): The folder that MMPretrain's ``data_root`` names. Defaults to
            ``'data/fashion_mnist'``.
        source (str | Path, optional): A folder that has the files, extracted or as ``.gz``. If it is given, no other
            source is tried. Defaults to None.
        sources (Sequence[Callable]): Tried one after the other. Each takes an empty scratch folder and ``log``. It
            returns a folder with the files, or raises UserError with the reason why it cannot. Defaults to
            :data:`~pervit_mm.datasets.fashion_mnist_sources.SOURCES`.
        files (Mapping[str, str]): File names and md5 sums.
        log (Callable): Takes a sentence on what is done. Defaults to ``print``.
        install (bool): Whether Debian's package may be installed on the system, which needs root. This is tried before
            ``sources``. Defaults to False.

    Returns:
        list[str]: The names that were put in place; empty if everything was there.

    Raises:
        UserError: If ``source`` is not a folder, or no source has the files. The message has the reason of every
            source, and says which files to put where.
    """
    root = Path(root)
    if not missing_files(root, files):
        log(f'Fashion-MNIST is in {root}, whole and checked.')
        return []
    if source is not None:
        if not Path(source).is_dir():
            raise UserError(
                f'source={str(source)!r} is not a folder: name the one that holds '
                f'{", ".join(files)}, extracted or as .gz.')
        sources = [lambda scratch, log: Path(source)]
    elif install:
        sources = [from_package_install, *sources]
    reasons = []
    for fetch in sources:
        with tempfile.TemporaryDirectory(prefix='fashion-mnist-') as scratch:
            try:
                placed = install_from(fetch(Path(scratch), log), root, files)
            except UserError as error:
                reasons.append(str(error))
                continue
        log(f'Fashion-MNIST is in {root}, whole and checked; put there now: {", ".join(placed)}.')
        return placed
    wanted = [f'  {name}  (extracted, md5 {files[name]})' for name in missing_files(root, files)]
    raise UserError('\n'.join([
        'Fashion-MNIST could not be fetched:',
        *(f'  - {reason}' for reason in reasons),
        f'Run this again with --install, as root on Debian or Ubuntu, to install {DEBIAN_PACKAGE}; or '
        'name a folder that has the files, extracted or as .gz, by --source; or put these files into '
        f'{root} yourself:',
        *wanted,
    ]))
