"""Writing files so that they are there as a whole or not at all."""
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .errors import UserError


def write_json(path: str | Path, data: Any) -> None:
    """Write data as JSON, as a whole or not at all.

    Args:
        path (str | Path): The file that is made or replaced, in a folder that exists.
        data (Any): What JSON can hold.

    Raises:
        UserError: If no file can be made in that folder.
    """
    with replacing(path) as file:
        file.write(json.dumps(data, indent=1).encode())


@contextmanager
def replacing(path: str | Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``. It takes the place of ``path`` at the end, or is removed after an error.

    Args:
        path (str | Path): The file that is made or replaced, in a folder that exists. It gets the mode that the umask
            leaves to new files.
        durable (bool): Whether the content is on the disk, not only in the system's memory, before the file takes its
            place. Defaults to False.

    Yields:
        BinaryIO: The temporary file, open for writing.

    Raises:
        UserError: If no file can be made in that folder.
    """
    path = Path(path)
    partial = path.with_name(f'.{path.name}.{secrets.token_hex(4)}')
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less what the umask takes
    except OSError as error:
        raise UserError(f"'{path}' cannot be written ({error.strerror or error}): give a path in a folder that exists "
                        'and may be written to') from error
    try:
        with os.fdopen(handle, 'wb') as writer:
            yield writer
            if durable:
                writer.flush()
                os.fsync(writer.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
