"""How mmcv is built for this torch: its releases, the changes to their sources, and the compiler and headers needed.

These are the parts of build_mmcv.py that neither fetch nor install anything.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

RECIPE = 1  # part of the cache's key: raise it whenever this script builds differently
# Folder of sources -> files that define the same names as others of the folder. Each of them is compiled alone.
SOURCES = {
    'mmcv/ops/csrc/pytorch': (),
    'mmcv/ops/csrc/pytorch/cpu': ('psamask.cpp', 'roi_align.cpp', 'roi_align_rotated.cpp',
                                  'rotated_feature_align.cpp'),
}
# Accelerators other than CUDA that mmcv's own setup.py builds for when one of these is 1.
STOCK_VARIABLES = ('FORCE_MLU', 'FORCE_NPU', 'FORCE_MPS', 'MMCV_WITH_DIOPI')


@dataclass(frozen=True)
class Release:
    """A release of mmcv whose sources this recipe fits.

    Args:
        name (str): Name of its distribution.
        version (str): The release.
        sha256 (str): Of its source distribution.
        replaces (tuple[str]): Distributions with the same files, which it may replace.
        needs (str): The module that its setup.py imports besides torch.
        advice (str): What pip installs of what it needs, for messages.
    """
    name: str
    version: str
    sha256: str
    replaces: tuple[str, ...]
    needs: str
    advice: str

    @property
    def stem(self) -> str:
        """What the names of its archive and its wheels begin with."""
        return f'{self.name.replace("-", "_")}-{self.version}'


ORIGINAL = Release(
    'mmcv', '2.1.0', 'd387bcab66b467479b6660310e23746cfc79c6e57acf04094680adb499a5cd3f', ('mmcv', 'mmcv-lite'),
    'pkg_resources', '-c constraints.txt "setuptools<81" torch mmengine opencv-python')
FORK = Release(
    'onedl-mmcv', '2.3.6', '8704978a3d492b15cc058742ac3165bd1bcc2dd20678da9ed39e0da3048e3045', ('onedl-mmcv', ),
    'packaging', '-c constraints-forks.txt setuptools torch onedl-mmengine opencv-python')


def release_for(distributions: Iterable[str]) -> Release:
    """Choose the release that belongs to the MMEngine of an environment.

    Args:
        distributions (Iterable[str]): Names of the distributions that provide MMEngine.

    Returns:
        Release: The fork of mmcv if MMEngine is one, and the original otherwise.
    """
    return FORK if 'onedl-mmengine' in distributions else ORIGINAL


class BuildError(RuntimeError):
    """An error that the user can act on. The message says how."""


def last_lines(text: str, count: int = 15) -> str:
    """Take the end of a program's output, because the error is there."""
    return '\n'.join(text.strip().splitlines()[-count:])


def run(command: Iterable[str], **kwargs) -> subprocess.CompletedProcess:
    """Run a program without printing. Its output, both streams in one, is in ``stdout`` of the result."""
    return subprocess.run(
        list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors='replace', check=False, **kwargs)


def check_sha256(path: Path, release: Release) -> None:
    """Refuse a file that is not the source distribution of a release.

    Args:
        path (Path): The file.
        release (Release): Has the sha256 in hexadecimal digits.

    Raises:
        BuildError: If the sum differs.
    """
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != release.sha256:
        raise BuildError(
            f'{path.name} is not the official source distribution of {release.name} {release.version}: its sha256 is '
            f'{found}, but should be {release.sha256}. It is not used. Remove it, run "pip cache purge", '
            'look at what index pip is set up to use ("pip config list"), and try again.')


def group_sources(names: Iterable[str], alone: Iterable[str]) -> tuple[list[str], list[str]]:
    """Sort the C++ files of one folder into those compiled together and those compiled alone.

    Args:
        names (Iterable[str]): File names.
        alone (Iterable[str]): Names of the files that cannot be compiled together with others.

    Returns:
        tuple[list[str], list[str]]: Files compiled together and files compiled alone, each in alphabetical order.

    Raises:
        BuildError: If a file of ``alone`` is not there.
    """
    sources = {name for name in names if name.endswith('.cpp')}
    absent = sorted(set(alone) - sources)
    if absent or not sources:
        raise BuildError(
            f'the sources of mmcv lack {", ".join(absent) or "any .cpp file"}; they are not the ones that this script '
            'is made for.')
    return sorted(sources - set(alone)), sorted(alone)


def gather_sources(folder: Path, alone: Iterable[str]) -> list[str]:
    """Rewrite one folder so that setup.py finds few units in it. setup.py compiles every ``*.cpp``.

    The files compiled together are renamed to ``*.cpp.inc``. They stay in their folder, so that their own includes
    still work. One ``gathered.cpp`` includes them all.

    Args:
        folder (Path): A folder of C++ files.
        alone (Iterable[str]): Names of the files that stay as they are.

    Returns:
        list[str]: The names of the units that are left.
    """
    together, alone = group_sources((path.name for path in folder.iterdir()), alone)
    for name in together:
        (folder / name).rename(folder / f'{name}.inc')
    lines = [f'#include "{name}.inc"\n' for name in together]
    (folder / 'gathered.cpp').write_text(''.join(lines), encoding='utf-8')
    return ['gathered.cpp', *alone]


def ask_for_cpp20(setup_text: str) -> str:
    """Replace C++17 by C++20 in the compiler flags of mmcv's setup.py.

    Args:
        setup_text (str): The text of setup.py.

    Returns:
        str: The new text.

    Raises:
        BuildError: If there is nothing to replace.
    """
    text, count = re.subn(r'std([=:])c\+\+17', r'std\1c++20', setup_text)
    if not count:
        raise BuildError(
            "mmcv's setup.py does not ask for C++17; it is not the one that this script changes.")
    return text


def find_compiler() -> str:
    """Find a C++20 compiler and Python's headers.

    Returns:
        str: The compiler's path.

    Raises:
        BuildError: If there is none, it is too old, or the headers are missing.
    """
    names = [os.environ['CXX']] if os.environ.get('CXX') else ['c++', 'g++', 'clang++']
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        raise BuildError(
            f'there is no C++ compiler ({", ".join(names)}): on Debian or Ubuntu, "apt-get install '
            'g++" as root; elsewhere install one, or name it by CXX.')
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / 'probe.cpp'
        probe.write_text('#include <concepts>\nstatic_assert(std::integral<int>);\n')
        result = run([compiler, '-std=c++20', '-fsyntax-only', str(probe)])
    if result.returncode:
        raise BuildError(
            f'{compiler} does not compile C++20, which the headers of torch want: install g++ 11 '
            'or newer, or name a newer compiler by CXX. It says:\n'
            f'{last_lines(result.stdout)}')
    headers = Path(sysconfig.get_path('include'))
    if not (headers / 'Python.h').is_file():
        raise BuildError(
            f'the headers of Python are missing ({headers / "Python.h"}): on Debian or Ubuntu, '
            f'"apt-get install python{sys.version_info.major}.{sys.version_info.minor}-dev" as '
            'root.')
    return compiler


def choose_route(environ: Mapping[str, str], cuda_available: bool, rocm: bool = False) -> str:
    """Decide for which devices mmcv is built, and how.

    Args:
        environ (Mapping[str, str]): Environment variables.
        cuda_available (bool): What ``torch.cuda.is_available()`` says.
        rocm (bool): Whether torch is built for AMD's cards, which call themselves CUDA in torch. Defaults to False.

    Returns:
        str: 'cpu'; 'cuda' where there is some, or ``FORCE_CUDA`` is 1; 'stock', mmcv's own setup.py unchanged, if a
        variable asks for another accelerator, or with ROCm.
    """
    cuda = cuda_available or environ.get('FORCE_CUDA') == '1'
    if (cuda and rocm) or any(environ.get(name) == '1' for name in STOCK_VARIABLES):
        return 'stock'
    return 'cuda' if cuda else 'cpu'


def cache_key(soabi: str, platform: str, torch_version: str, cuda: tuple[str, str] | None = None) -> str:
    """Name the folder of wheels that fit one kind of environment.

    Args:
        soabi (str): Python's tag for extension modules, such as ``cpython-311-x86_64-linux-gnu``.
        platform (str): Such as ``linux-x86_64``.
        torch_version (str): With its local part, such as ``2.14.1+cpu``.
        cuda (tuple[str, str], optional): Version of CUDA and the kinds of cards, such as ``('13.0', '8.0;9.0')``.
            Defaults to None: for the CPU alone.

    Returns:
        str: A file name.
    """
    key = f'{soabi}_{platform}_torch-{torch_version}_recipe-{RECIPE}'
    if cuda is not None:
        key += '_cuda-{}_arch-{}'.format(*cuda)
    return re.sub(r'[^A-Za-z0-9_.+-]', '-', key)


def explain_failed_build(output: str) -> str:
    """Choose the advice that fits the output of a build that failed.

    Args:
        output (str): All that pip and the compiler printed.

    Returns:
        str: The advice.
    """
    if re.search(r'killed|out of memory|cannot allocate memory', output, re.IGNORECASE):
        return ('the compiler was stopped, probably for lack of memory: set MAX_JOBS=1, which '
                'takes longer and less memory, and try again')
    if 'No space left on device' in output:
        return 'the disk is full: make room, or name a folder on another disk by TMPDIR'
    if 'Python.h' in output and 'No such file' in output:
        return 'the headers of Python are missing: on Debian or Ubuntu install python3-dev as root'
    if re.search(r'\bcu\w+\.h: No such file', output):
        return 'headers of CUDA are missing: install the whole CUDA toolkit, or name its folder by CUDA_HOME'
    if 'mismatches the version that was used to compile' in output:
        return 'nvcc belongs to another CUDA than torch: name the folder of the right toolkit by CUDA_HOME'
    return 'the compiler reports an error, shown below'
