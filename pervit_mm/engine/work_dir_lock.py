"""One training for each work directory."""
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mmengine.dist import is_main_process

from ..utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def alone_in(work_dir: str) -> Iterator[None]:
    """Hold a work directory for one training: two would overwrite each other's checkpoints.

    The main process locks the folder itself, so no file is left, and the system lets go when the process ends in
    whatever way. Without locks of files (Windows, some network disks) nothing is held.

    Args:
        work_dir (str): The folder.

    Raises:
        UserError: If another training holds it.
    """
    if fcntl is None or not is_main_process():
        yield
        return
    folder = os.open(work_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f'another training runs in {work_dir!r}: wait for it, or give this one a --work-dir of its '
                            'own') from error
        except OSError:
            pass  # a disk without locks
        yield
    finally:
        with suppress(OSError):  # said aloud, because data workers that live on have the open folder too
            fcntl.flock(folder, fcntl.LOCK_UN)
        os.close(folder)
