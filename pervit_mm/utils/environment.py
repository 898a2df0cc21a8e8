"""Check that pervit_mm can run in this environment, and let MMEngine find the toolboxes in it.

``install_requires`` names none of these requirements, because several distributions have the same import names. mmcv
comes as ``mmcv`` (with compiled ops) or as ``mmcv-lite``. The whole stack comes from the original distributions or from
the maintained ``onedl-*`` forks. A requirement by distribution name could reinstall a working environment. So this
check goes by import name and ``__version__``, when pervit_mm is imported.
"""

import importlib
import importlib.metadata
import importlib.util
import re
from types import ModuleType

# (import name, lowest version that works, what to do)
REQUIREMENTS = (
    ('torch', '2.4', 'pip install "torch>=2.4"'),
    ('mmengine', '0.10', 'pip install "mmengine>=0.10" (or onedl-mmengine)'),
    ('mmcv', '2.0', 'pip install "mmcv-lite>=2.0", which is enough here, or mmcv with compiled '
     'ops (or onedl-mmcv)'),
)


def parse_release(version: str) -> tuple[int, ...]:
    """Read the leading numbers of a version.

    Suffixes such as ``rc1``, ``.dev0`` or ``+cpu`` are ignored. So a nightly build or a release candidate counts as new
    enough if the release is.

    Args:
        version (str): For example ``'2.14.1+cpu'``.

    Returns:
        tuple[int, ...]: For example ``(2, 14, 1)``. Trailing zeros are dropped, so that ``'2.0'``
        equals ``'2.0.0'``.

    Raises:
        ValueError: If the version does not begin with a number.
    """
    match = re.match(r'\d+(\.\d+)*', version)
    if match is None:
        raise ValueError(f'version={version!r} does not begin with a number such as 2.1.0.')
    release = [int(number) for number in match.group().split('.')]
    while len(release) > 1 and release[-1] == 0:
        release.pop()
    return tuple(release)


def check_module(name: str, minimum: str, advice: str) -> ModuleType:
    """Import one module and check that it is new enough.

    Args:
        name (str): Import name, such as ``'mmcv'``.
        minimum (str): The lowest version that works.
        advice (str): What to do when the module is missing or too old.

    Returns:
        ModuleType: The imported module.

    Raises:
        ImportError: If the module is missing, fails while being imported, or is older than
            ``minimum``. The message is one sentence with the name, what was found and what to do.
    """
    need = f'pervit_mm needs {name} {minimum} or newer'
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            raise ImportError(f'{need}, which is not installed: {advice}.', name=name) from error
        raise ImportError(
            f'{need}; {name} is installed but cannot be imported, because it needs the module '
            f'{error.name!r}, which is not installed: install that as well.', name=name) from error
    except Exception as error:
        # A broken installation fails in many ways: ImportError for a missing libGL.so.1, AttributeError or
        # RuntimeError if versions do not fit. The message passes the cause on.
        raise ImportError(
            f'{need}; {name} is installed but cannot be imported: make '
            f'"python -c \'import {name}\'" work first ({type(error).__name__}: {error}).',
            name=name) from error
    found = getattr(module, '__version__', None)
    if found is None:
        place = getattr(module, '__file__', None) or list(getattr(module, '__path__', []))
        raise ImportError(
            f'{need}, but what is imported under that name, {place}, has no __version__: rename '
            f'whatever hides the real {name}, or install it: {advice}.', name=name)
    if parse_release(str(found)) < parse_release(minimum):
        raise ImportError(f'{need}, but {found} is installed: {advice}.', name=name)
    return module


def check_pkg_resources() -> None:
    """Check that pkg_resources is there if the installed MMEngine uses it.

    MMEngine 0.10.7 imports it inside functions while it reads a config, and newer setuptools come without it. The forks
    of MMEngine do not need it. So this looks into MMEngine's own function for the import.

    Raises:
        ImportError: If MMEngine would import pkg_resources and it cannot be found.
    """
    from mmengine.utils import is_installed
    code = getattr(is_installed, '__code__', None)
    if code is None or 'pkg_resources' not in code.co_names:
        return
    if importlib.util.find_spec('pkg_resources') is None:
        raise ImportError(
            'pervit_mm needs pkg_resources, because the installed mmengine imports it at run time, '
            'and setuptools 81 or newer may come without it: pip install "setuptools<81".',
            name='pkg_resources')


def check_environment() -> None:
    """Check that torch, mmengine and mmcv (lite is enough) are there and new enough.

    Compiled ops are neither needed nor imported, nor is any toolbox.

    Raises:
        ImportError: One sentence that names what is missing or too old and what to install.
    """
    for name, minimum, advice in REQUIREMENTS:
        check_module(name, minimum, advice)
    check_pkg_resources()


def find_toolboxes() -> None:
    """Let MMEngine read ``mmseg::`` base configs of a toolbox that has another distribution name.

    MMEngine looks for a toolbox by the name of its distribution, and installs that by pip where it serves models by
    name. MMSegmentation's import name is not the name of its distribution, so MMEngine has a table of the two. Under
    the forks the table names a distribution that isn't there. There it gets the import name, by which MMEngine looks as
    well. No toolbox is imported.
    """
    from mmengine.config.utils import MODULE2PACKAGE
    for module, distribution in MODULE2PACKAGE.items():
        if module != distribution and not _has_distribution(distribution) and importlib.util.find_spec(module):
            MODULE2PACKAGE[module] = module


def _has_distribution(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
