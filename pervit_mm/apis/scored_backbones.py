"""A config's classifier whose backbone comes from a checkpoint of any training, or has random weights."""
import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import Tensor, nn

from ..checkpoints import read_checkpoint
from ..checkpoints.files import beginnings, entry_of
from ..models.init_rules import rule_name
from ..utils.errors import UserError
from .building import build_with_preprocessor, load_strictly

# What a backbone has in pre-training alone. It plays no part in the features of whole images.
_ONLY_PRETRAINING = ('mask_token', )


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
    load_strictly(model.backbone, {key: value for key, value in chosen.items()
                                   if key in own or key not in _ONLY_PRETRAINING},
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


def _suggest(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Prefixes under which a checkpoint has a backbone, or what its keys begin with, for messages."""
    key = next(iter(own), '')
    found = [name.removesuffix(key) for name in state if name == key or name.endswith(f'.{key}')]
    if found:
        return f'it has one under {", ".join(map(repr, found))}'
    return f'its keys begin with {beginnings(state)}; take a checkpoint with this backbone'
