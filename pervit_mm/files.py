"""Files that are there as a whole or not at all."""
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file to be written beside ``path``, which takes its place at the end, or goes if there is an error.

    Args:
        path (str | Path): The file that is made or replaced, in a folder that exists.

    Yields:
        BinaryIO: To write into.
    """
    path = Path(path)
    handle, partial = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    try:
        with os.fdopen(handle, 'wb') as writer:
            yield writer
        os.chmod(partial, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)
