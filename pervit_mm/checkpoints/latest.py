"""Which checkpoint of a work directory a run goes on from."""
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from ..utils.errors import UserError
from .allow_list import allow_not_needed
from .contents import check_archive

#: Names of the checkpoints that a run can go on from; ``best_*.pth`` have no optimizer.
_RESUMABLE = re.compile(r'(?:epoch|iter)_(\d+)\.pth')


def is_whole(path: str | Path) -> bool:
    """Whether a file reads as a checkpoint of a runner, which has ``meta`` and ``state_dict``; nothing of it is run."""
    try:
        check_archive(path)
        with allow_not_needed():
            # mmap: the structure is read, and the bytes of the weights are not.
            content = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except Exception:  # a damaged or crafted file fails in whatever way it likes
        return False
    return isinstance(content, dict) and {'meta', 'state_dict'} <= content.keys()


def checkpoint_folders(work_dir: str | Path, out_dir: str | None) -> list[str]:
    """Where MMEngine's checkpoint hook with an ``out_dir`` saves: a folder in it with the name of the work directory.

    Args:
        work_dir (str | Path): Of the run.
        out_dir (str, optional): Of the hook.

    Returns:
        list[str]: One folder; none without ``out_dir``.
    """
    return [os.path.join(out_dir, os.path.basename(os.path.abspath(work_dir)))] if out_dir else []


def find_resumable(work_dir: str | Path, more_folders: Sequence[str | Path] = ()) -> tuple[str | None, str | None]:
    """Find the checkpoint that a run goes on from.

    ``last_checkpoint`` names it, by its file name alone: it is looked for in the folders given, so that a copied work
    directory resumes from its own files and nothing is fetched from an address. Where that file is missing, empty or
    damaged, the newest whole checkpoint counts, by the number in its name.

    Args:
        work_dir (str | Path): Folder with ``last_checkpoint``.
        more_folders (Sequence[str | Path]): Where checkpoints may be besides. Defaults to ().

    Returns:
        tuple[str, str]: Path of the checkpoint, None if there is none at all; and a sentence on what was passed over,
        None if nothing was.

    Raises:
        UserError: If there are checkpoints and none of them is whole.
    """
    folders = [Path(folder) for folder in (work_dir, *more_folders)]
    named, note = _named(Path(work_dir) / 'last_checkpoint'), None
    if named is not None:
        for folder in folders:
            if named and (folder / named).is_file():
                if is_whole(folder / named):
                    return str(folder / named), None
                note = f'{folder / named}, which last_checkpoint names, is damaged or no checkpoint of a run'
                break
        else:
            note = (f'last_checkpoint of {work_dir} names {named!r}, which is not there' if named else
                    f'last_checkpoint of {work_dir} is empty or names no file')
    found = sorted(((int(match[1]), path.stat().st_mtime, str(path)) for folder in folders if folder.is_dir()
                    for path in folder.iterdir() if (match := _RESUMABLE.fullmatch(path.name)) and path.is_file()),
                   reverse=True)
    for _, _, path in found:
        if is_whole(path):
            passed = note or f'{work_dir} has no last_checkpoint'
            return path, f'{passed}: the run goes on from {path}, the newest whole checkpoint'
    if found or note:
        raise UserError(f'--resume: {note or f"{work_dir} has no last_checkpoint"}, and there is no whole checkpoint '
                        f'beside it ({len(found)} looked at): give --resume the path of one, or start in another '
                        '--work-dir')
    return None, None


def _named(file: Path) -> str | None:
    """File name that ``last_checkpoint`` holds: '' if it is none, None without such a file."""
    if not file.is_file():
        return None
    text = file.read_bytes()[:4096].decode(errors='replace').strip()
    name = os.path.basename(text.replace('\\', '/'))
    return '' if '://' in text or '\0' in name or '\n' in text else name
