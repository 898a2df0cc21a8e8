"""Where the files of Fashion-MNIST come from.

Every source takes an empty scratch folder and a function that says what is done. It returns a folder with the files,
extracted or as ``.gz``, or raises UserError with the reason why it cannot. No source is trusted: the caller checks the
sums of the files.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urljoin

from ..utils.errors import UserError

DEBIAN_PACKAGE = 'dataset-fashion-mnist'


def run_command(command: Sequence[str], cwd: str | Path | None = None) -> str:
    """Run a command that asks no questions.

    Args:
        command (Sequence[str]): The program and its arguments.
        cwd (str | Path, optional): The folder to run it in. Defaults to None, the current one.

    Returns:
        str: What it printed.

    Raises:
        UserError: If the command cannot be started or fails. The message has the end of its output.
    """
    environment = {**os.environ, 'DEBIAN_FRONTEND': 'noninteractive', 'LC_ALL': 'C'}
    try:
        result = subprocess.run(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors='replace', check=False)
    except OSError as error:
        raise UserError(f'{command[0]} cannot be run ({error})') from error
    if result.returncode:
        end = ' / '.join(result.stdout.strip().splitlines()[-3:])
        raise UserError(f'"{" ".join(command)}" failed: {end or result.returncode}')
    return result.stdout


def folder_in_listing(listing: str) -> Path:
    """Find the folder of the data in a list of paths, as ``dpkg -L`` prints it.

    Args:
        listing (str): One path a line.

    Returns:
        Path: The folder that holds the training images.

    Raises:
        UserError: If no line names the training images.
    """
    for line in listing.splitlines():
        path = Path(line.strip())
        if path.name in ('train-images-idx3-ubyte.gz', 'train-images-idx3-ubyte'):
            return path.parent
    raise UserError(f'the package {DEBIAN_PACKAGE} lists no train-images-idx3-ubyte.gz')


def from_installed_package(scratch: Path, log: Callable[[str], None]) -> Path:
    """Find the files of Debian's package, if it is installed.

    Args:
        scratch (Path): An empty folder, not needed here.
        log (Callable): Takes a sentence on what is done.

    Returns:
        Path: The folder with the ``.gz`` files.

    Raises:
        UserError: If the package is not installed, or this is no Debian.
    """
    folder = folder_in_listing(run_command(['dpkg', '-L', DEBIAN_PACKAGE]))
    log(f'Taking Fashion-MNIST from the installed package {DEBIAN_PACKAGE}.')
    return folder


def from_package_install(scratch: Path, log: Callable[[str], None]) -> Path:
    """Install Debian's package, which needs root, and find its files.

    Args:
        scratch (Path): An empty folder, not needed here.
        log (Callable): Takes a sentence on what is done.

    Returns:
        Path: The folder with the ``.gz`` files.

    Raises:
        UserError: If there is no apt-get, this is not root, or the installation fails.
    """
    if shutil.which('apt-get') is None:
        raise UserError('there is no apt-get to install a package with')
    if os.geteuid() != 0:
        raise UserError(f'installing {DEBIAN_PACKAGE} by apt-get takes root')
    install = ['apt-get', 'install', '-y', '-q', '--no-install-recommends', DEBIAN_PACKAGE]
    log(f'Installing the package {DEBIAN_PACKAGE} (31 MB) by apt-get install.')
    try:
        run_command(install)
    except UserError as error:
        # A new machine or container has no package lists yet. If the reason is another one, the second try fails in
        # the same way and raises it.
        log(f'{error}; trying again after apt-get update.')
        run_command(['apt-get', 'update', '-q'])
        run_command(install)
    return from_installed_package(scratch, log)


def from_package_download(scratch: Path, log: Callable[[str], None]) -> Path:
    """Download Debian's package and unpack it into the scratch folder, which needs no root and installs nothing.

    A new machine or container has no package lists yet. Then the lists are fetched into the scratch folder as well.

    Args:
        scratch (Path): An empty folder.
        log (Callable): Takes a sentence on what is done.

    Returns:
        Path: The folder with the ``.gz`` files.

    Raises:
        UserError: If there is no apt-get or dpkg-deb, or the download fails.
    """
    if shutil.which('apt-get') is None or shutil.which('dpkg-deb') is None:
        raise UserError('there is no apt-get and dpkg-deb to fetch and unpack a package with')
    log(f'Downloading the package {DEBIAN_PACKAGE} (31 MB) by apt-get; nothing is installed.')
    try:
        run_command(['apt-get', 'download', '-q', DEBIAN_PACKAGE], cwd=scratch)
    except UserError as error:
        log(f'{error}; trying again with package lists of its own.')
        (scratch / 'lists' / 'partial').mkdir(parents=True)
        (scratch / 'cache' / 'archives' / 'partial').mkdir(parents=True)
        # Run as root, apt would download as another user, who may not write here.
        own = ['-q', '-o', f'Dir::State::lists={scratch}/lists', '-o', f'Dir::Cache={scratch}/cache',
               '-o', 'APT::Sandbox::User=root']
        run_command(['apt-get', 'update', *own])
        run_command(['apt-get', 'download', *own, DEBIAN_PACKAGE], cwd=scratch)
    archives = sorted(scratch.glob('*.deb'))
    if not archives:
        raise UserError(f'apt-get download {DEBIAN_PACKAGE} left no .deb file')
    unpacked = scratch / 'unpacked'
    run_command(['dpkg-deb', '-x', str(archives[0]), str(unpacked)])
    return folder_in_listing('\n'.join(str(path) for path in unpacked.rglob('*')))


def from_mmpretrain(scratch: Path, log: Callable[[str], None]) -> Path:
    """Let MMPretrain download the files, from the address that its ``FashionMNIST`` uses.

    Args:
        scratch (Path): An empty folder.
        log (Callable): Takes a sentence on what is done.

    Returns:
        Path: The folder with the files.

    Raises:
        UserError: If MMPretrain is not installed or the download fails.
    """
    try:
        from mmpretrain.datasets import FashionMNIST
        from mmpretrain.datasets.utils import download_and_extract_archive
    except ImportError as error:
        raise UserError(f'MMPretrain cannot download: importing it fails ({error})') from error
    log("Downloading Fashion-MNIST by MMPretrain's own download.")
    # MMPretrain opens its connections without a time limit. If the network never answers, the user would wait forever.
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(60)
    try:
        for name, md5 in FashionMNIST.train_list + FashionMNIST.test_list:
            url = urljoin(FashionMNIST.url_prefix, name)
            download_and_extract_archive(url, str(scratch), filename=name, md5=md5)
    except (OSError, RuntimeError) as error:  # RuntimeError of a wrong md5
        raise UserError(f'MMPretrain cannot download {name} ({error})') from error
    finally:
        socket.setdefaulttimeout(previous)
    return scratch


#: Sources that are tried, in this order. None of them installs anything on the system.
SOURCES = (from_installed_package, from_package_download, from_mmpretrain)
