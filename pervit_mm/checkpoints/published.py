"""The checkpoints that come with the package: ``pervit_mm://<file>.pth``, wherever MMEngine takes a path.

MMEngine loads a file without looking at the hash in its name. The loader here reads a file once, compares the sha256 of
these bytes with ``SHA256SUMS`` beside it, and loads the same bytes.
"""
import hashlib
import io
import re
from pathlib import Path
from typing import Any

import torch
from mmengine.fileio import load
from mmengine.runner import CheckpointLoader

from ..utils.errors import UserError, told

#: What names of published checkpoints begin with, in ``init_cfg``, ``load_from`` and the model index.
PREFIX = 'pervit_mm://'
#: Folder of the published checkpoints, below :func:`package_root`.
FOLDER = 'checkpoints'
#: File in that folder with the sha256 of each other one; ``sha256sum -c SHA256SUMS`` reads it, too.
SUMS = 'SHA256SUMS'


def package_root() -> Path:
    """Find the folder with ``model-index.yml``, ``configs`` and ``checkpoints``.

    Returns:
        Path: ``pervit_mm/.mim`` of an installed wheel; for a clone, or an editable installation of it, its top level.

    Raises:
        UserError: If there is neither.
    """
    package = Path(__file__).resolve().parents[1]
    for root in (package / '.mim', package.parent):
        if (root / 'model-index.yml').is_file():
            return root
    raise UserError(f"there is no model-index.yml in '{package / '.mim'}' nor in '{package.parent}': pervit_mm "
                            'was copied without its configs and checkpoints; install its wheel, or pip install -e a '
                            'clone of it')


def read_index() -> dict[str, list[dict]]:
    """Read ``model-index.yml`` and the metafiles that it imports.

    Returns:
        dict[str, list[dict]]: Path of each metafile, below :func:`package_root`, to the entries under its ``Models``.
    """
    root = package_root()
    return {path: load(root / path)['Models'] for path in load(root / 'model-index.yml')['Import']}


def index_entries() -> list[dict]:
    """List the models of ``model-index.yml``.

    Returns:
        list[dict]: The entries of all metafiles, in their order.
    """
    return [entry for models in read_index().values() for entry in models]


def read_sums(folder: str | Path) -> dict[str, str]:
    """Read ``SHA256SUMS``.

    Args:
        folder (str | Path): Where it is.

    Returns:
        dict[str, str]: File name to sha256 in hexadecimal digits; empty where there is no such file.

    Raises:
        UserError: If the file is no text, or a line isn't one of ``sha256sum``, or names a file that isn't right there.
    """
    path, sums = Path(folder) / SUMS, {}
    with told(f"'{path}' is no text; restore the file, or write it again by sha256sum", UnicodeDecodeError):
        lines = path.read_text(encoding='utf-8').splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r'([0-9a-f]{64}) [ *]([^/\\]+)', line)
        if match is None:
            raise UserError(f"'{path}' line {number} must be 64 hexadecimal digits, two spaces and a file name, got "
                            f'{line!r}; restore the file, or write it again by sha256sum')
        sums[match[2]] = match[1]
    return sums


def published_files() -> dict[str, str]:
    """List the checkpoints that come with the package; :data:`PREFIX` and a name make MMEngine load one.

    Returns:
        dict[str, str]: File name to sha256 in hexadecimal digits.

    Raises:
        UserError: As :func:`read_sums` does, or if there are checkpoints and no sums.
    """
    folder = package_root() / FOLDER
    if not (folder / SUMS).is_file() and any(folder.glob('*.pth')):
        raise UserError(f"'{folder / SUMS}' is missing, so no checkpoint beside it can be compared with what was "
                        'published: install pervit_mm again, or check the file out again')
    return {name: digest for name, digest in read_sums(folder).items() if name.endswith('.pth')}


def load_from_pervit_mm(filename: str, map_location: Any = None) -> dict:
    """Load a published checkpoint after comparing its sha256; MMEngine calls it for ``pervit_mm://...``.

    Args:
        filename (str): ``pervit_mm://`` and one of :func:`published_files`.
        map_location: As ``torch.load`` takes it. Defaults to None.

    Returns:
        dict: What the file holds, read with ``weights_only=True``.

    Raises:
        UserError: If there is no such checkpoint, if its sha256 isn't the published one, or if the file is gone.
    """
    name, sums = filename.removeprefix(PREFIX), published_files()
    if name not in sums and any(entry['Name'] == name for entry in index_entries() if 'Weights' not in entry):
        raise UserError(f"{name} has no weights here, because the authors' files are theirs to give out: convert one "
                        "by tools/model_converters/pervit_to_mm.py, and give its path, as in "
                        "pretrained='pervit_tiny.pth'")
    if name not in sums:
        raise UserError(f'{PREFIX}{name} is none of the checkpoints that come with pervit_mm, which are '
                        f'{", ".join(sorted(sums)) or "none yet"}; for a file of yours give its path alone')
    path = package_root() / FOLDER / name
    if not path.is_file():
        raise UserError(f"'{path}' is missing, though {SUMS} lists it: install pervit_mm again, or check the "
                                'file out again (what is above 10 MB is in a clone alone, not in a wheel)')
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sums[name]:
        raise UserError(f"'{path}' is not what was published and was not loaded: its sha256 is {found}, and {SUMS} "
                        f'says {sums[name]}; install pervit_mm again, or check the file out again')
    return torch.load(io.BytesIO(content), map_location=map_location, weights_only=True)


def register_scheme() -> None:
    """Make MMEngine load ``pervit_mm://...`` by :func:`load_from_pervit_mm`; more calls change nothing."""
    CheckpointLoader.register_scheme(PREFIX, load_from_pervit_mm, force=True)  # without force, a reload would raise
