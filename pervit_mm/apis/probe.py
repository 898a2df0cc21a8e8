"""The table of baselines of a config: pixels, random weights and a checkpoint, on the same images."""
import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, SequentialSampler, Subset

from ..checkpoints import read_checkpoint
from ..checkpoints.files import beginnings, entry_of
from ..engine.launch import check_data
from ..engine.preflight import check_same_classes, innermost_dataset
from ..evaluation import Features, collect_features, recalibrate
from ..evaluation.baselines import Baseline, center_features, check_seeds, measure_features, pixel_features
from ..evaluation.neighbours import NUM_NEIGHBORS
from ..models.init_rules import rule_name
from ..utils.errors import UserError, told
from .building import build_with_preprocessor, load_strictly
from .named_models import check_device

#: Images of the bank from which BatchNorm of random weights gets its statistics if nothing else is asked for.
RECALIBRATION = 8192
# What a backbone has in pre-training alone. It plays no part in the features of whole images.
_ONLY_PRETRAINING = ('mask_token', )


def probe(cfg: Config, checkpoint: str | None = None, *, pixels: bool = False, random: bool = False,
          prefix: str = 'backbone.', recalibration: int = 0, images: int | None = None, bank: int | None = None,
          k: Sequence[int] | None = NUM_NEIGHBORS, shots: int | None = 60, seeds: Sequence[int] = (0, 1, 2),
          full_probe: bool = False, device: str | None = None) -> Iterator[Baseline]:
    """Measure features of a config's data set by k-NN and linear probes, one kind after the other.

    The bank is the training set with the pipeline of the test set. The images that are classified are the test set.

    Args:
        cfg (Config): Of a classifier, with ``train_dataloader`` and ``test_dataloader``.
        checkpoint (str, optional): Path or ``pervit_mm://`` name, of a classifier or of a pre-training. Defaults to
            None, no such row.
        pixels (bool): Whether to measure pixels as they are and minus the bank's mean. Defaults to False.
        random (bool): Whether to measure random weights, with statistics of BatchNorm from the bank. The first of
            ``seeds`` draws them. Defaults to False.
        prefix (str): What the backbone's keys in the checkpoint begin with. Defaults to 'backbone.'.
        recalibration (int): Images of the bank from which BatchNorm of the checkpoint gets its statistics anew, as a
            training on masked images needs it. Defaults to 0, none; random weights get :data:`RECALIBRATION` then.
        images (int, optional): Images of the test set, evenly from its first to its last. Defaults to None, all.
        bank (int, optional): Images of the training set, likewise. Defaults to None, all.
        k (Sequence[int], optional): Neighbors with the whole bank. Defaults to (10, 20, 100, 200). None takes those of
            them that the bank has.
        shots (int, optional): Labeled images of each class where labels are few. Defaults to 60; None leaves few labels
            out.
        seeds (Sequence[int]): Of the draws, at least two. Defaults to (0, 1, 2).
        full_probe (bool): Whether to train a linear probe on the whole bank, too. Defaults to False.
        device (str, optional): Defaults to None, which takes a GPU if there is one.

    Yields:
        Baseline: Pixels, centered pixels, random weights, checkpoint, as far as they are asked for.

    Raises:
        UserError: If nothing is asked for, a number is out of range, the config has no labeled images, or the
            checkpoint doesn't fit; otherwise as :func:`pervit_mm.evaluation.baselines.measure_features`.
    """
    if not (checkpoint or pixels or random):
        raise UserError('nothing to measure: give a checkpoint, pixels (--pixels) or random (--random)')
    check_seeds(seeds)
    check_recalibration(recalibration)
    device = check_device(device or get_device())
    bank_set, query_set = build_sets(cfg, bank, images)
    if k is None:
        k = [count for count in NUM_NEIGHBORS if count <= len(bank_set)] or [1]
    models = []  # all of them ahead of the work, so that mistakes are told at once
    if random:
        models.append((f'random weights (seed {seeds[0]}), recalibrated', random_classifier(cfg, seeds[0]),
                       recalibration or RECALIBRATION))
    if checkpoint:
        name = Path(checkpoint).name + (f', {prefix}' if prefix != 'backbone.' else '')
        models.append((name + (', recalibrated' if recalibration else ''),
                       classifier_with_backbone(cfg, checkpoint, prefix), recalibration))
    loaders = [build_loader(cfg, part) for part in (bank_set, query_set)]

    def measure(name: str, bank: Features, queries: Features) -> Baseline:
        return measure_features(name, bank, queries, k, shots, seeds, full_probe)

    if pixels:
        of_pixels = [pixel_features(loader) for loader in loaders]
        yield measure('pixels', *of_pixels)
        yield measure('pixels, centered', *center_features(*of_pixels))
    for name, model, count in models:
        model.to(device)
        recalibrate_by(cfg, model, bank_set, count)
        yield measure(name, *(collect_features(model, loader, ()) for loader in loaders))


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
    if 'LoadImage' not in str(pipeline[0].get('type')):  # a data set of arrays, as Fashion-MNIST's
        pipeline.insert(0, dict(type='PerViTLoadImageFromFile'))
    changed = copy.deepcopy(cfg)
    for loader, part in (('train_dataloader', 'train'), ('test_dataloader', 'val')):
        changed[loader] = dict(changed.get(loader) or {}, dataset=dict(
            type='CustomDataset', data_root=str(folder), data_prefix=part, pipeline=pipeline))
    return changed


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


def mixed(dataset: Dataset, count: int) -> Subset:
    """``count`` images in an order drawn by a fixed seed: neighbors in a folder often have one class."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    return Subset(dataset, order[:count].tolist())


def check_recalibration(count: int) -> None:
    """Raise UserError unless it is a number of images, or 0."""
    if type(count) is not int or count < 0:
        raise UserError(f'recalibration (--recalibrate) must be a number of images of at least 0, got {count!r}')


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


def random_classifier(cfg: Config, seed: int) -> nn.Module:
    """Build the model of a config and initialize its backbone, without pretrained weights that the config names.

    Args:
        cfg (Config): Of a classifier.
        seed (int): Draws the weights; PyTorch's own generator is left as it was.

    Returns:
        nn.Module: On the CPU. Its head is not initialized.

    Raises:
        UserError: If it cannot be built.
    """
    config = copy.deepcopy(cfg.model)
    rules = config.backbone.get('init_cfg')
    if rules is not None:
        rules = [rules] if isinstance(rules, dict) else rules
        config.backbone.init_cfg = [rule for rule in rules if rule_name(rule) != 'Pretrained'] or None
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        model = build_with_preprocessor(cfg, config)
        model.backbone.init_weights()
    return model


def classifier_with_backbone(cfg: Config, checkpoint: str, prefix: str = 'backbone.') -> nn.Module:
    """Build the model of a config with the backbone of a checkpoint, no weight of it missing and none left over.

    Args:
        cfg (Config): Of a classifier.
        checkpoint (str): Path or ``pervit_mm://`` name, of a classifier or of a pre-training.
        prefix (str): What the backbone's keys begin with, such as 'backbone.' or 'teacher.module.backbone.'; '' for
            a backbone alone. Defaults to 'backbone.'.

    Returns:
        nn.Module: On the CPU. Its head has no weights of the checkpoint.

    Raises:
        UserError: If the model cannot be built, the checkpoint can't be read, no key has the prefix, or the weights
            are of another backbone.
    """
    state = entry_of(read_checkpoint(checkpoint), 'state_dict')
    state = {key.removeprefix('module.'): value for key, value in state.items()
             if isinstance(value, Tensor)} if isinstance(state, Mapping) else {}
    model = build_with_preprocessor(cfg, copy.deepcopy(cfg.model))
    start = f'{prefix.rstrip(".")}.' if prefix else ''
    chosen = {key[len(start):]: value for key, value in state.items() if key.startswith(start)}
    own = model.backbone.state_dict()
    if not own.keys() & chosen.keys():
        raise UserError(f"no weight of {type(model.backbone).__name__} is in '{checkpoint}' under prefix={prefix!r} "
                        f'(--prefix): {_suggest(state, own)}')
    load_strictly(model.backbone, {key: value for key, value in chosen.items() if key not in _ONLY_PRETRAINING},
                  f"'{checkpoint}' under prefix={prefix!r} (--prefix)")
    return model


def classifier_or_random(cfg: Config, checkpoint: str | None, prefix: str = 'backbone.', seed: int = 0) -> nn.Module:
    """The backbone of a checkpoint, or without one random weights.

    Args:
        cfg (Config): Of a classifier.
        checkpoint (str, optional): See :func:`classifier_with_backbone`. None takes :func:`random_classifier`.
        prefix (str): Of the checkpoint's keys. Defaults to 'backbone.'.
        seed (int): Of the random weights. Defaults to 0.

    Returns:
        nn.Module: On the CPU. Its head has no weights of the checkpoint.

    Raises:
        UserError: As either of the two.
    """
    if checkpoint is None:
        return random_classifier(cfg, seed)
    return classifier_with_backbone(cfg, checkpoint, prefix)


def _suggest(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Prefixes under which a checkpoint has a backbone, or what its keys begin with, for messages."""
    key = next(iter(own), '')
    found = [name.removesuffix(key) for name in state if name == key or name.endswith(f'.{key}')]
    if found:
        return f'it has one under {", ".join(map(repr, found))}'
    return f'its keys begin with {beginnings(state)}; take a checkpoint with this backbone'


@contextmanager
def quiet() -> Iterator[None]:
    """MMEngine's log from warnings upwards: it has lines for each parameter that is initialized."""
    logger = MMLogger.get_current_instance()
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _evenly(dataset: Dataset, count: int | None) -> Dataset:
    """``count`` images from the first to the last; all if there are fewer."""
    if count is None or count >= len(dataset):
        return dataset
    return Subset(dataset, np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist())


def build_loader(cfg: Config, dataset: Dataset) -> DataLoader:
    """Load a data set in its order, in batches of the config's test set."""
    settings: dict[str, Any] = {name: cfg.test_dataloader[name] for name in ('batch_size', 'num_workers')
                                if name in cfg.test_dataloader}
    settings.setdefault('batch_size', 64)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
        return Runner.build_dataloader(dict(settings, dataset=dataset, sampler=SequentialSampler(dataset),
                                            collate_fn=dict(type='default_collate')))
