"""Checks ahead of a launch: a path that isn't there is said in one sentence, before anything is built."""
import os
import os.path as osp
from typing import Any

from ..checkpoints import PREFIX, published
from ..models.rules import rule_name

# MMPretrain's small datasets, which download themselves where `download` isn't False.
SELF_DOWNLOADING = ('MNIST', 'FashionMNIST', 'CIFAR10', 'CIFAR100')


class LaunchError(ValueError):
    """A mistake in a path, an option or the set-up that the user can put right.

    The tools print its message alone, without a traceback.
    """


def check_checkpoint(path: str, argument: str) -> None:
    """Raise LaunchError where a local checkpoint path doesn't exist, or a ``pervit_mm://`` name isn't published.

    Args:
        path (str): A path, a ``pervit_mm://`` name, or a URL, which is left to the download.
        argument (str): Where it came from, for the message.
    """
    if path.startswith(PREFIX):
        names = sorted(f'{PREFIX}{name}' for name in published())
        if path not in names:
            raise LaunchError(f'{argument}: {path!r} is none of the checkpoints that come with pervit_mm, which are '
                              f'{", ".join(names) or "none yet"}; for a file of yours give its path alone')
    # 'torchvision://resnet50' and 'https://...' are left to MMEngine's loader.
    if '://' not in path and not osp.isfile(path):
        raise LaunchError(f'{argument}: {path!r} is not a file; give the path of a .pth checkpoint')


def check_pretrained(part: Any, name: str = 'model') -> None:
    """Raise LaunchError where a ``Pretrained`` rule within a model names no file.

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


def check_data(cfg: dict, loader: str) -> None:
    """Raise LaunchError where a loader's dataset points to a folder or file that isn't there.

    Args:
        cfg (dict): The config.
        loader (str): The name of a loader in it, for example 'train_dataloader'.
    """
    name, dataset = f'{loader}.dataset', (cfg.get(loader) or {}).get('dataset')
    while isinstance(dataset, dict) and isinstance(dataset.get('dataset'), dict):
        # RepeatDataset, ClassBalancedDataset, MultiImageMixDataset and the like hold another one.
        name, dataset = f'{name}.dataset', dataset['dataset']
    if not isinstance(dataset, dict):
        return
    root = dataset.get('data_root') or ''
    kind = str(dataset.get('type')).split('.')[-1]
    if '://' in root or dataset.get('backend_args') or (
            kind in SELF_DOWNLOADING and dataset.get('download', True)):
        return  # not, or not yet, on this disk
    prefix = dataset.get('data_prefix') or (kind == 'ImageNet' and dataset.get('split')) or ''
    parts = list(prefix.values()) if isinstance(prefix, dict) else [prefix]
    parts.append(dataset.get('ann_file') or '')
    for part in parts:
        if not isinstance(part, str) or '://' in part:
            continue
        path = osp.join(root, part)
        if path and not osp.exists(path):
            raise LaunchError(
                f'{name} ({kind}): {path!r} does not exist, seen from {os.getcwd()!r}. Put the '
                f'data there, or say where it is with --cfg-options {name}.data_root=...')
