"""Is a checkpoint there? Asked ahead of building anything, and answered in one sentence."""
import os.path as osp
from typing import Any

from ..models.init_rules import rule_name
from ..utils.errors import UserError
from .contents import check_archive
from .published import PREFIX, published_files


def check_checkpoint(path: str, argument: str) -> None:
    """Raise UserError where a local checkpoint path doesn't exist, or a ``pervit_mm://`` name isn't published.

    Args:
        path (str): A path, a ``pervit_mm://`` name, or a URL, which is left to the download.
        argument (str): Where it came from, for the message.
    """
    if path.startswith(PREFIX):
        names = sorted(f'{PREFIX}{name}' for name in published_files())
        if path not in names:
            raise UserError(f'{argument}: {path!r} is none of the checkpoints that come with pervit_mm, which are '
                            f'{", ".join(names) or "none yet"}; for a file of yours give its path alone')
    # 'torchvision://resnet50' and 'https://...' are left to MMEngine's loader.
    if '://' in path:
        return
    if not osp.isfile(path):
        raise UserError(f'{argument}: {path!r} is not a file; give the path of a .pth checkpoint')
    check_archive(path)


def check_pretrained(part: Any, name: str = 'model') -> None:
    """Raise UserError where a ``Pretrained`` rule within a model names no file.

    Args:
        part (Any): The model's config, or a part of it.
        name (str): Its place, for the message. Defaults to 'model'.
    """
    if isinstance(part, dict):
        if rule_name(part) == 'Pretrained' and isinstance(part.get('checkpoint'), str):
            check_checkpoint(part['checkpoint'], f'{name}.checkpoint')
        for key, value in part.items():
            check_pretrained(value, f'{name}.{key}')
    elif isinstance(part, (list, tuple)):
        for index, value in enumerate(part):
            check_pretrained(value, f'{name}.{index}')
