"""Files that are there as a whole or not at all."""
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import UserError


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``. It takes the place of ``path`` at the end, or is removed after an error.

    Args:
        path (str | Path): The file that is made or replaced, in a folder that exists.

    Yields:
        BinaryIO: To write into.

    Raises:
        UserError: If no file can be made there.
    """
    path = Path(path)
    try:
        handle, partial = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written ({error.strerror or error}): give a path in a folder that exists "
                        'and may be written to') from error
    try:
        with os.fdopen(handle, 'wb') as writer:
            yield writer
        os.chmod(partial, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)
