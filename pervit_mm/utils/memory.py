"""How the process gets its memory from the system."""
import ctypes
import sys

# Names of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let the process keep memory that it frees, for the rest of its life. For programs, not for libraries.

    By default glibc gives blocks of more than 32 MiB back to the system at once. The next tensor of that size gets new
    pages, which the system has to clear first. On the CPU this costs a network with large maps about a tenth of its
    time. The process takes no more memory at its peak than before, apart from gaps between blocks, but it does not
    shrink after it.

    Returns:
        bool: Whether it is so now. Other C libraries than glibc have no such option.
    """
    if not sys.platform.startswith('linux'):
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    # No block by mmap, and the heap neither shrinks nor grows in small steps.
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, 2**31 - 1), mallopt(_M_TOP_PAD, 64 * 2**20)])
