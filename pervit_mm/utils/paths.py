"""Paths as a person wants to read them."""
import os


def shown(path: str) -> str:
    """A path seen from the working directory.

    Args:
        path (str): Of a file or folder.

    Returns:
        str: A relative path. On Windows a place on another drive has none, and is given as it is.
    """
    try:
        return os.path.relpath(path)
    except ValueError:
        return path
