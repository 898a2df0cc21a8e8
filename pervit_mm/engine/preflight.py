"""Mistakes of a config that can be seen ahead of the first iteration, each in one sentence."""
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..utils.errors import UserError


@contextmanager
def building(what: str) -> Iterator[None]:
    """Turn what the toolboxes raise for an option that can't be into a :class:`UserError`.

    They raise KeyError for a type that no registry has, TypeError for an option that a class doesn't have, and
    ValueError or AssertionError for a value that it refuses.

    Args:
        what (str): Part of the config, for the message.

    Raises:
        UserError: With the words of the error.
    """
    try:
        yield
    except UserError:
        raise
    except (AssertionError, AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
        words = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        words = words.strip().splitlines()[0] if words.strip() else 'no reason is given'
        raise UserError(f'{what} of the config cannot be built ({type(error).__name__}: {words})') from error


def told_builder(method: Callable, what: str) -> Callable:
    """A method of ``Runner`` under :func:`building`."""

    @functools.wraps(method)
    def build(*args, **kwargs) -> Any:
        with building(what):
            return method(*args, **kwargs)

    return build


def check_run(runner: Runner) -> None:
    """Check what has been built for a training, ahead of its first iteration.

    Args:
        runner (Runner): With its loops, model and data.

    Raises:
        UserError: If there is nothing to train on, a number of classes or channels does not fit, or validation never
            comes.
    """
    loop, model = runner.train_loop, runner.model.module if is_model_wrapper(runner.model) else runner.model
    for name in ('max_epochs', 'max_iters'):
        value = getattr(loop, name, 1)
        if value < 1:
            reason = 'there is nothing to train'
            if name == 'max_iters' and getattr(loop, 'max_epochs', 0) > 0:
                reason = (f'the {len(loop.dataloader.dataset)} images of train_dataloader.dataset do not fill a batch '
                          f'of {loop.dataloader.batch_size}: make train_dataloader.batch_size smaller')
            raise UserError(f'train_cfg: {name} is {value}, so {reason}')
    if getattr(loop, 'val_interval', 1) < 1:
        raise UserError(f'train_cfg.val_interval must be at least 1, got {loop.val_interval}: leave validation out by '
                        'val_cfg=None, val_dataloader=None, val_evaluator=None (--no-validate)')
    check_channels(model)
    for name, one in (('train_dataloader', runner.train_loop),
                      ('val_dataloader', runner.val_loop if runner._val_loop is not None else None)):
        if one is not None:
            check_classes(model, one.dataloader.dataset, name)


def check_channels(model: nn.Module) -> None:
    """Raise UserError if backbone, neck and head do not fit.

    Args:
        model (nn.Module): Of any toolbox. Parts that do not tell their channels are not checked.
    """
    backbone, neck, head = (getattr(model, name, None) for name in ('backbone', 'neck', 'head'))
    made = getattr(backbone, 'out_channels', None)
    if not isinstance(made, (tuple, list)) or not made:
        return
    wanted = getattr(neck, 'in_channels', None)
    if isinstance(wanted, (tuple, list)) and len({*wanted}) > 1 and tuple(wanted) != tuple(made):
        raise UserError(f'model.neck.in_channels is {tuple(wanted)}, and the backbone gives maps of {tuple(made)} '
                        'channels (model.backbone.out_indices chooses them)')
    if isinstance(wanted, (tuple, list)) and len({*wanted}) == 1 and wanted[0] != made[-1]:
        raise UserError(f'model.neck.in_channels is {wanted[0]}, and the last map of the backbone has {made[-1]} '
                        f'channels: set it to {made[-1]}')
    wanted = getattr(head, 'in_channels', None)
    if neck is None and isinstance(wanted, int) and wanted != made[-1]:
        raise UserError(f'model.head.in_channels is {wanted}, and the backbone gives {made[-1]} channels: set it to '
                        f'{made[-1]}')


def check_classes(model: nn.Module, dataset: Any, loader: str) -> None:
    """Raise UserError if a data set has more classes than the head has outputs, or the head counts more than it has.

    Args:
        model (nn.Module): Of any toolbox.
        dataset (Any): Of a loader. One without ``metainfo['classes']`` is not checked.
        loader (str): Name of the loader, for the message.
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    for name in ('head', 'decode_head', 'bbox_head', 'roi_head.bbox_head'):
        head = model
        for part in name.split('.'):
            head = getattr(head, part, None)
        outputs = getattr(head, 'num_classes', None)
        if not isinstance(outputs, int):
            continue
        if classes is not None and len(classes) > outputs:
            raise UserError(f'model.{name}.num_classes is {outputs}, and {loader}.dataset has {len(classes)} classes: '
                            f'set it to {len(classes)}')
        topk = getattr(head, 'topk', None) or ()
        if isinstance(topk, (tuple, list)) and topk and max(topk) > outputs:
            raise UserError(f'model.{name}.topk is {tuple(topk)}, and there are {outputs} classes: leave out what is '
                            'larger, in the evaluators too')
