"""The labeled images of a config as a bank and as queries, as features are scored on them."""
import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset, SequentialSampler, Subset

from ..engine.launch import check_data
from ..engine.preflight import check_same_classes, innermost_dataset
from ..evaluation import recalibrate
from ..utils.errors import UserError, told
from ..utils.type_names import type_name


def build_sets(cfg: Config, bank: int | None = None, images: int | None = None) -> tuple[Dataset, Dataset]:
    """The labeled training images as a bank, and the test images, both with the pipeline of the test set.

    Wrappers of the training set, such as ``PerViTFewLabels`` and ``RepeatDataset``, are left out.

    Args:
        cfg (Config): Of a classifier.
        bank (int, optional): Images of the bank, evenly from the first to the last. Defaults to None, all.
        images (int, optional): Images of the test set, likewise. Defaults to None, all.

    Returns:
        tuple[Dataset, Dataset]: Bank and test images.

    Raises:
        UserError: If the config lacks one of them, they can't be read, they differ in classes, or a number isn't
            positive.
    """
    for name, count in (('bank (--bank)', bank), ('images (--images)', images)):
        if count is not None and (type(count) is not int or count < 1):
            raise UserError(f'{name} must be a positive number of images, got {count!r}')
    parts = {}
    for loader in ('train_dataloader', 'test_dataloader'):
        config = (cfg.get(loader) or {}).get('dataset')
        if not isinstance(config, dict) or not isinstance((cfg.get('model') or {}).get('backbone'), dict):
            missing = loader if not isinstance(config, dict) else 'model.backbone'
            raise UserError(f'config {str(cfg.filename)!r} has no {missing}, and k-NN and probes need labeled images: '
                            'give a config with labels, such as that of the classifier that starts from this training')
        check_data(cfg, loader)
        _, config = innermost_dataset(cfg, loader)
        if 'pipeline' not in config:
            raise UserError(f'{loader}.dataset ({config.get("type")}) has no pipeline and no single dataset within: '
                            'name one data set in the config')
        parts[loader] = copy.deepcopy(config)
    parts['train_dataloader']['pipeline'] = parts['test_dataloader']['pipeline']
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')), told(
            'the data sets of the config cannot be read', OSError, KeyError, AssertionError):  # MMPretrain asserts
        train, test = (DATASETS.build(config) for config in parts.values())
    check_same_classes(train, test, 'test_dataloader')
    return _evenly(train, bank), _evenly(test, images)


def with_folder(cfg: Config, folder: str) -> Config:
    """A config with an image folder as its data set, prepared as the config prepares its test images.

    Args:
        cfg (Config): Of a classifier.
        folder (str): Has ``train/CLASS`` and ``val/CLASS`` with images, the same classes in both.

    Returns:
        Config: A changed copy. Its model has the classes of the config still, which features don't need.

    Raises:
        UserError: If the config has no pipeline for test images, or a part has no folder of a class.
    """
    for part in ('train', 'val'):
        path = Path(folder) / part
        if not path.is_dir() or not any(found.is_dir() for found in path.iterdir()):
            raise UserError(f'data={folder!r} must have a folder {part!r} with a folder for each class, and has none; '
                            'docs/custom_data.md shows the layout')
    _, dataset = innermost_dataset(cfg, 'test_dataloader')
    pipeline = copy.deepcopy(dataset.get('pipeline')) if isinstance(dataset, dict) else None
    if not pipeline:
        raise UserError(f'config {str(cfg.filename)!r} has no test_dataloader.dataset.pipeline: give the config of the '
                        'classifier that was trained')
    if 'LoadImage' not in type_name(pipeline[0]):  # a data set of arrays, as Fashion-MNIST's
        pipeline.insert(0, dict(type='PerViTLoadImageFromFile'))
    changed = copy.deepcopy(cfg)
    for loader, part in (('train_dataloader', 'train'), ('test_dataloader', 'val')):
        changed[loader] = dict(changed.get(loader) or {}, dataset=dict(
            type='CustomDataset', data_root=str(folder), data_prefix=part, pipeline=pipeline))
    return changed


def build_loader(cfg: Config, dataset: Dataset) -> DataLoader:
    """Load a data set in its order, in batches of the config's test set."""
    settings: dict[str, Any] = {name: cfg.test_dataloader[name] for name in ('batch_size', 'num_workers')
                                if name in cfg.test_dataloader}
    settings.setdefault('batch_size', 64)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
        return Runner.build_dataloader(dict(settings, dataset=dataset, sampler=SequentialSampler(dataset),
                                            collate_fn=dict(type='default_collate')))


def mixed(dataset: Dataset, count: int) -> Subset:
    """``count`` images in an order drawn by a fixed seed: neighbors in a folder often have one class."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    return Subset(dataset, order[:count].tolist())


def recalibrate_by(cfg: Config, model: nn.Module, bank: Dataset, count: int) -> None:
    """Give BatchNorm the statistics of so many images, in a mixed order; 0 leaves the model as it is.

    Args:
        cfg (Config): See :func:`build_loader`.
        model (nn.Module): Is changed.
        bank (Dataset): The images, see :func:`build_sets`.
        count (int): How many.
    """
    if count:
        recalibrate(model, build_loader(cfg, mixed(bank, count)), count)


def check_recalibration(count: int) -> None:
    """Raise UserError unless it is a number of images, or 0."""
    if type(count) is not int or count < 0:
        raise UserError(f'recalibration (--recalibrate) must be a number of images of at least 0, got {count!r}')


def _evenly(dataset: Dataset, count: int | None) -> Dataset:
    """``count`` images from the first to the last; all if there are fewer."""
    if count is None or count >= len(dataset):
        return dataset
    return Subset(dataset, np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist())
