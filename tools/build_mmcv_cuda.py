"""What a build of mmcv's ops for CUDA takes besides the sources: the toolkit, and which cards to compile for.

These are parts of build_mmcv.py that neither fetch nor compile anything.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from build_mmcv_recipe import BuildError


def architectures(environ: Mapping[str, str], cards: Iterable[tuple[int, int]]) -> str:
    """Choose the kinds of cards to compile for.

    Args:
        environ (Mapping[str, str]): Environment variables. ``TORCH_CUDA_ARCH_LIST`` takes precedence over the cards.
        cards (Iterable[tuple[int, int]]): Compute capability of each visible card.

    Returns:
        str: A value of ``TORCH_CUDA_ARCH_LIST``, such as ``8.0;9.0``.

    Raises:
        BuildError: If there is neither.
    """
    chosen = environ.get('TORCH_CUDA_ARCH_LIST', '').strip()
    if not chosen or chosen == 'native':
        chosen = ';'.join(f'{major}.{minor}' for major, minor in sorted(set(cards)))
    if not chosen:
        raise BuildError(
            'FORCE_CUDA=1 asks for CUDA, and no card is visible here: name the kinds of cards to compile for by '
            'TORCH_CUDA_ARCH_LIST, for example "8.0;9.0" for A100 and H100.')
    return chosen


def find_toolkit(environ: Mapping[str, str], cuda_version: str, usual: Path = Path('/usr/local/cuda')) -> Path:
    """Find the CUDA toolkit, with nvcc and the headers of CUDA.

    Args:
        environ (Mapping[str, str]): Environment variables. ``CUDA_HOME`` or ``CUDA_PATH`` names the toolkit.
        cuda_version (str): What torch was built with, for the message.
        usual (Path): Where it is on most machines.

    Returns:
        Path: Its folder.

    Raises:
        BuildError: If there is no nvcc.
    """
    named = environ.get('CUDA_HOME') or environ.get('CUDA_PATH')
    nvcc = shutil.which('nvcc', path=environ.get('PATH'))
    guesses = [Path(named)] if named else [*([Path(nvcc).parents[1]] if nvcc else []), usual]
    found = [folder for folder in guesses if (folder / 'bin' / 'nvcc').is_file()]
    if not found:
        raise BuildError(
            f'there is no nvcc (looked in {", ".join(map(str, guesses))}): install the CUDA toolkit {cuda_version}, or '
            'name its folder by CUDA_HOME. Where ops on the CPU are enough, hide the cards: "CUDA_VISIBLE_DEVICES= '
            'python tools/build_mmcv.py", with FORCE_CUDA unset.')
    # The nvcc in PATH may be a launcher in another folder than the toolkit.
    return next((folder for folder in found if (folder / 'include' / 'cuda_runtime.h').is_file()), found[0])


def library_headers(toolkit: Path, packages: Path) -> list[Path]:
    """Find the headers of CUDA's libraries that torch's headers include, if the toolkit has none.

    Args:
        toolkit (Path): Folder of the toolkit.
        packages (Path): Where torch is installed. Its wheels bring these headers for themselves.

    Returns:
        list[Path]: Folders. Empty if the toolkit is a whole one.
    """
    if (toolkit / 'include' / 'cusparse.h').is_file():
        return []
    return sorted({header.parent for header in packages.glob('nvidia/*/include/cu*.h')
                   if header.name in ('cublas_v2.h', 'cusolverDn.h', 'cusparse.h')})


def cuda_variables(environ: Mapping[str, str], torch: ModuleType) -> dict[str, str]:
    """Environment variables with which mmcv's setup.py builds the ops for CUDA.

    Args:
        environ (Mapping[str, str]): The environment variables at hand.
        torch (ModuleType): The torch of this environment.

    Returns:
        dict[str, str]: The variables that differ.

    Raises:
        BuildError: If something is missing.
    """
    if torch.version.cuda is None:
        raise BuildError(f'FORCE_CUDA=1 asks for CUDA, and torch {torch.__version__} is built for the CPU alone: unset '
                         'FORCE_CUDA, or install torch for CUDA.')
    cards = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
    arch_list = architectures(environ, cards)
    toolkit = find_toolkit(environ, torch.version.cuda)
    changed = {'FORCE_CUDA': '1', 'CUDA_HOME': str(toolkit), 'TORCH_CUDA_ARCH_LIST': arch_list}
    headers = library_headers(toolkit, Path(torch.__file__).parents[1])
    if headers:
        changed['CPATH'] = os.pathsep.join([*filter(None, [environ.get('CPATH')]), *map(str, headers)])
    return changed
