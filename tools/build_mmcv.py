"""Install mmcv with compiled ops into the environment of the interpreter that runs this.

In an environment with onedl-mmengine this is onedl-mmcv 2.3.6, and mmcv 2.1.0 otherwise.

No wheel of either exists for this torch. Their own builds fail, because torch's headers want C++20 and their setup.py
asks for C++17. They would also take over 40 minutes on two cores. Nearly all of that time goes into reading torch's
headers once for each of 77 files.

So this script takes the official source distribution and checks its sha256. It gathers the C++ sources into six
translation units and compiles them as C++20. It keeps the wheel for the next environment.

Where torch sees CUDA, or FORCE_CUDA=1, the ops are built for the CPU and for CUDA. nvcc compiles 58 more units, also as
C++20, for the cards that are visible or for those that TORCH_CUDA_ARCH_LIST names. "CUDA_VISIBLE_DEVICES=" in front of
the command hides the cards, and the ops are built for the CPU alone. For other accelerators (FORCE_NPU=1 and such, and
ROCm) pip builds mmcv as it comes.

A wheel is first tried out beside the environment. Only if it works does it replace mmcv-lite, which has the same files.
Everything is fetched by pip, from the index that pip is set up to use.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from build_mmcv_cuda import cuda_variables
from build_mmcv_recipe import (
    SOURCES,
    STOCK_VARIABLES,
    BuildError,
    Release,
    ask_for_cpp20,
    cache_key,
    check_sha256,
    choose_route,
    explain_failed_build,
    find_compiler,
    gather_sources,
    last_lines,
    release_for,
    run,
)

CUDA_SOURCES = 'mmcv/ops/csrc/pytorch/cuda'
CHECK = Path(__file__).with_name('build_mmcv_check.py')


def say(sentence: str) -> None:
    """Tell the user what is being done."""
    print(f'build_mmcv: {sentence}', flush=True)


def pip(*args: str, **kwargs) -> subprocess.CompletedProcess:
    """Run the pip of this environment."""
    return run([sys.executable, '-m', 'pip', '--no-input', *args], **kwargs)


def check_ops(folder: Path | None = None) -> tuple[str | None, str]:
    """Import mmcv's compiled ops in a new process and compare some values, on CUDA too where there is some.

    Args:
        folder (Path, optional): Folder of an unpacked wheel that is not installed. Defaults to None: check the mmcv of
            the environment.

    Returns:
        tuple[str | None, str]: mmcv's version and an empty text. If the ops are missing or wrong, None and the reason.
    """
    environment = dict(os.environ)
    if folder is not None:
        environment['PYTHONPATH'] = str(folder)
    with tempfile.TemporaryDirectory() as elsewhere:  # or a folder named mmcv in the current one would be imported
        # The text and not the file: the folder of a file would come first in the search for modules.
        result = run([sys.executable, '-c', CHECK.read_text(encoding='utf-8')], cwd=elsewhere, env=environment)
    lines = result.stdout.strip().splitlines() or [f'exit code {result.returncode}, no output']
    if result.returncode:
        return None, lines[-1]
    found = json.loads(lines[-1])
    if folder is not None and not Path(found['file']).resolve().is_relative_to(folder.resolve()):
        return None, f'{found["file"]} was imported instead of {folder}'
    return found['version'], ''


def cache_folder(environ: Mapping[str, str], key: str) -> Path:
    """Folder of the kept wheels: ``${XDG_CACHE_HOME:-~/.cache}/pervit_mm/wheels/KEY``."""
    base = environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'pervit_mm' / 'wheels' / key


def fetch_prebuilt(release: Release, scratch: Path) -> Path | None:
    """Ask pip for a ready wheel. Returns None if pip finds none that fits."""
    target = scratch / 'prebuilt'
    pip('download', '-qq', '--no-deps', '--only-binary=:all:', '-d', str(target),
        f'{release.name}=={release.version}')
    return next(iter(sorted(target.glob('*.whl'))), None)


def fetch_sdist(release: Release, scratch: Path) -> Path:
    """Fetch the source distribution by pip. pip checks its hash before opening it.

    Args:
        release (Release): What to fetch.
        scratch (Path): An existing folder.

    Returns:
        Path: The archive.

    Raises:
        BuildError: If it cannot be fetched, or has another hash.
    """
    target, wanted = scratch / 'sdist', scratch / 'wanted.txt'
    named = f'{release.name} {release.version}'
    wanted.write_text(f'{release.name}=={release.version} --hash=sha256:{release.sha256}\n', encoding='utf-8')
    result = pip(
        'download', '--no-deps', f'--no-binary={release.name}', '--no-build-isolation', '-d', str(target),
        '-r', str(wanted), env={**os.environ, 'MMCV_WITH_OPS': '1'})
    archive = next(iter(sorted(target.glob(f'{release.stem}.tar.gz'))), None)
    if 'DO NOT MATCH THE HASHES' in result.stdout:
        raise BuildError(
            f'what pip found as {named} is not the official source distribution (wrong '
            'sha256) and is not used. Run "pip cache purge", look at what index pip is set up to '
            f'use ("pip config list"), and try again. pip says:\n{last_lines(result.stdout)}')
    if result.returncode or archive is None:
        raise BuildError(
            f'pip could not fetch the source distribution of {named}. Check the network and '
            f'try again, or fetch {release.stem}.tar.gz elsewhere and name it by --sdist. pip says:\n'
            f'{last_lines(result.stdout)}')
    return archive


def build_wheel(command: Iterable[str], target: Path, environment: Mapping[str, str]) -> Path:
    """Run ``pip wheel``. If it fails, its whole output goes into a log file.

    Args:
        command (Iterable[str]): What to build, and pip's options for it.
        target (Path): The folder for the wheel.
        environment (Mapping[str, str]): Environment variables.

    Returns:
        Path: The wheel.

    Raises:
        BuildError: If there is no wheel.
    """
    start = time.monotonic()
    result = pip('wheel', '-v', '--no-deps', '--no-build-isolation', '-w', str(target), *command,
                 env=dict(environment))
    wheel = next(iter(sorted(target.glob('*.whl'))), None)
    if result.returncode or wheel is None:
        handle, log = tempfile.mkstemp(prefix='build_mmcv-', suffix='.log')
        with os.fdopen(handle, 'w', encoding='utf-8') as file:
            file.write(result.stdout)
        errors = [line for line in result.stdout.splitlines() if re.search(r'\berror\b|^\s*\w+Error: ', line)]
        raise BuildError(
            f'building mmcv failed: {explain_failed_build(result.stdout)}. All output is in {log}. '
            'It says:\n' + '\n'.join(line[:300] for line in errors[:5] or ['(nothing)']))
    say(f'compiled in {time.monotonic() - start:.0f} s.')
    return wheel


def build_from_source(release: Release, sdist: Path, scratch: Path, cuda: Mapping[str, str] | None = None) -> Path:
    """Compile the ops from the source distribution.

    Args:
        release (Release): What the archive holds.
        sdist (Path): The archive.
        scratch (Path): An existing folder.
        cuda (Mapping[str, str], optional): From :func:`cuda_variables`. Defaults to None: for the CPU alone.

    Returns:
        Path: The wheel.
    """
    check_sha256(sdist, release)
    compiler = find_compiler()
    # Releases of Python 3.10 and 3.11 before the middle of 2023 have no filter. The archive is safe without it, because
    # its hash has been checked.
    options = {'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch / 'source', **options)
    tree = scratch / 'source' / release.stem
    units = sum((gather_sources(tree / name, alone) for name, alone in SOURCES.items()), [])
    if cuda is not None:
        units += [path.name for path in (tree / CUDA_SOURCES).iterdir() if path.suffix in ('.cpp', '.cu')]
    setup = tree / 'setup.py'
    setup.write_text(ask_for_cpp20(setup.read_text(encoding='utf-8')), encoding='utf-8')
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    # ninja compiles in parallel. It may be beside this interpreter in an environment that is not activated, so that
    # folder goes into PATH. Debug information (-g0 turns it off) would double the time to write and the wheel's size.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get('PATH', os.defpath)])
    environment = {
        **os.environ, 'PATH': path, 'CXX': compiler, 'MMCV_WITH_OPS': '1',
        'MAX_JOBS': os.environ.get('MAX_JOBS') or str(cores),
        'CC': os.environ.get('CC') or compiler,
        'CFLAGS': f'{os.environ.get("CFLAGS", "")} -g0'.strip(),
        **(cuda or {}),
    }
    way = (f'{environment["MAX_JOBS"]} at a time' if shutil.which('ninja', path=path)
           else 'one after the other ("pip install ninja" would allow several at a time)')
    aim = '' if cuda is None else f' for the CPU and for CUDA cards of kind {cuda["TORCH_CUDA_ARCH_LIST"]}'
    say(f'compiling {len(units)} translation units{aim} with {compiler}, {way}; this takes minutes.')
    return build_wheel([str(tree)], scratch / 'wheels', environment)


def build_stock(release: Release, scratch: Path) -> Path:
    """Let pip build mmcv as it comes."""
    say(f'another accelerator than CUDA is here or asked for: leaving it to pip to get {release.name} '
        f'{release.version} as it comes, which may take long if it must compile.')
    try:
        return build_wheel([f'{release.name}=={release.version}'], scratch / 'stock', os.environ)
    except BuildError as error:
        raise BuildError(
            f'{error}\nThis was the build of mmcv itself, for another accelerator. Where its ops on the CPU are '
            'enough, hide the devices ("CUDA_VISIBLE_DEVICES= python tools/build_mmcv.py"), with '
            f'{", ".join(STOCK_VARIABLES)} unset.') from error


def try_out(wheel: Path, scratch: Path) -> str:
    """Unpack a wheel beside the environment and check its ops.

    Args:
        wheel (Path): The wheel.
        scratch (Path): An existing folder.

    Returns:
        str: Empty if the wheel works, otherwise the reason why it does not.
    """
    folder = Path(tempfile.mkdtemp(prefix='trial-', dir=scratch))
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    except zipfile.BadZipFile as error:
        return f'{wheel.name} is damaged ({error})'
    return check_ops(folder)[1]


def keep(wheel: Path, folder: Path) -> None:
    """Copy a wheel into the cache, so that only a whole file ever appears there. A failure is only printed."""
    partial = folder / f'.{wheel.name}.{os.getpid()}'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(wheel, partial)
        os.replace(partial, folder / wheel.name)
    except OSError as error:
        say(f'the wheel cannot be kept for the next environment ({error}).')
    else:
        say(f'the wheel is kept in {folder} for the next environment.')


def swap_in(release: Release, wheel: Path) -> None:
    """Replace mmcv-lite, or an mmcv whose ops do not work, by the wheel.

    Args:
        release (Release): What the wheel holds.
        wheel (Path): A wheel that has been tried out.

    Raises:
        BuildError: If pip fails.
    """
    # mmcv and mmcv-lite have the same files. If one were installed over the other, a later removal of the other would
    # remove the files of both.
    old = sorted(providers('mmcv') & {*release.replaces})
    if old:
        say(f'removing {" and ".join(old)}.')
        result = pip('uninstall', '-y', '-qq', *old)
        if result.returncode:
            raise BuildError(f'pip could not remove {old}:\n{last_lines(result.stdout)}')
    result = pip('install', '-qq', str(wheel))
    if result.returncode:
        raise BuildError(
            f'pip could not install {wheel.name}; the environment is without mmcv now. Run this '
            f'again, or "pip install {release.replaces[-1]}=={release.version}". pip says:\n'
            f'{last_lines(result.stdout)}')


def providers(module: str) -> set[str]:
    """Name the distributions that provide a module in this environment."""
    return {name.lower().replace('_', '-')
            for name in importlib.metadata.packages_distributions().get(module, [])}


def get_wheel(release: Release, sdist: Path | None, scratch: Path, folder: Path, stock: bool = False,
              cuda: Mapping[str, str] | None = None) -> Path:
    """Find, fetch or build a wheel whose ops work.

    Args:
        release (Release): What is wanted.
        sdist (Path, optional): A source distribution on this machine. If None, pip fetches it.
        scratch (Path): An existing folder.
        folder (Path): The cache.
        stock (bool): Whether mmcv's own build is to be used. Defaults to False.
        cuda (Mapping[str, str], optional): From :func:`cuda_variables`. Defaults to None: for the CPU alone.

    Returns:
        Path: The wheel.

    Raises:
        BuildError: If no working wheel can be found, fetched or built.
    """
    for wheel in [] if stock else sorted(folder.glob(f'{release.stem}-*.whl')):
        reason = try_out(wheel, scratch)
        if not reason:
            say(f'using the wheel kept in {folder}.')
            return wheel
        say(f'the wheel kept in {folder} does not work here ({reason}); it is made anew.')
    wheel = None if stock or sdist else fetch_prebuilt(release, scratch)
    if wheel is not None:
        reason = try_out(wheel, scratch)
        if not reason:
            say(f'using the ready wheel {wheel.name} that pip found.')
            return wheel
        say(f'the ready wheel {wheel.name} does not work here ({reason}); building one.')
    if stock:
        wheel = build_stock(release, scratch)
    else:
        wheel = build_from_source(release, sdist or fetch_sdist(release, scratch), scratch, cuda)
    reason = try_out(wheel, scratch)
    if reason:
        raise BuildError(f'the wheel that was built does not work: {reason}')
    if not stock:
        keep(wheel, folder)
    return wheel


def install(sdist: Path | None = None) -> None:
    """Make sure that this environment has mmcv with compiled ops.

    Args:
        sdist (Path, optional): A source distribution on this machine. Defaults to None: pip fetches it.

    Raises:
        BuildError: If something is missing or fails. The message says what to do.
    """
    release = release_for(providers('mmengine'))
    version, reason = check_ops()
    if version is not None:
        note = '' if version == release.version else f' (the tested one is {release.version}; it is left as it is)'
        say(f'mmcv {version} with compiled ops is already here{note}.')
        return
    others = sorted(providers('mmcv') - {*release.replaces})
    if others:
        raise BuildError(
            f'mmcv comes from {" and ".join(others)} here, whose ops do not work ({reason}): repair '
            f'or uninstall that first; this script replaces {" and ".join(release.replaces)} only.')
    if sdist is not None and not sdist.is_file():
        raise BuildError(f'--sdist {sdist} is not a file: name the archive {release.stem}.tar.gz.')
    needed = ('torch', release.needs, 'mmengine', 'cv2', 'numpy', 'PIL', 'yaml', 'yapf')
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        raise BuildError(
            f'{", ".join(absent)} must be in this environment first: run "make setup", or pip install {release.advice}')
    import torch
    route = choose_route(os.environ, torch.cuda.is_available(), torch.version.hip is not None)
    cuda = cuda_variables(os.environ, torch) if route == 'cuda' else None
    key = cache_key(
        sysconfig.get_config_var('SOABI') or 'unknown', sysconfig.get_platform(), torch.__version__,
        None if cuda is None else (torch.version.cuda, cuda['TORCH_CUDA_ARCH_LIST']))
    with tempfile.TemporaryDirectory(prefix='build_mmcv-') as scratch:
        wheel = get_wheel(release, sdist, Path(scratch), cache_folder(os.environ, key), route == 'stock', cuda)
        swap_in(release, wheel)
    version, reason = check_ops()
    if version is None:
        raise BuildError(f'mmcv is installed, but its ops do not work: {reason}')
    tried = 'the CPU and on CUDA' if torch.cuda.is_available() else 'the CPU'
    say(f'mmcv {version} with compiled ops is installed; nms, roi_align and MultiScaleDeformableAttention give right '
        f'values on {tried}.')


def main() -> int:
    """Read the command line and install. A failure is reported as a sentence, not as a traceback."""
    parser = argparse.ArgumentParser(description='Install mmcv with compiled ops, or onedl-mmcv beside onedl-mmengine.')
    parser.add_argument('--sdist', type=Path, help='the source distribution, if it is at hand')
    args = parser.parse_args()
    try:
        install(args.sdist)
    except (BuildError, OSError) as error:
        print(f'build_mmcv: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
