"""Mistakes of a config that can be seen ahead of the first iteration, each in one sentence."""
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from ..utils.errors import UserError
from ..utils.type_names import type_name


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
        if isinstance(error, KeyError) and ' registry' in words:
            words = f"{words.split('. ')[0]}; check the name, and that custom_imports names its module: 'pervit_mm', " \
                    "and 'pervit_mm.selfsup' for pre-training"
        if words == 'need at least one array to concatenate':  # what numpy says of MMEngine's data sets
            words = 'the data set is empty: look at data_root, ann_file and data_prefix; of a detector, whether ' \
                    'metainfo.classes are names of the annotation file; of a segmentor, at img_suffix and ' \
                    'seg_map_suffix'
        raise UserError(f'{what} of the config cannot be built ({type(error).__name__}: {words})') from error


def told_builder(method: Callable, what: str) -> Callable:
    """A method of ``Runner`` under :func:`building`."""

    @functools.wraps(method)
    def build(*args, **kwargs) -> Any:
        with building(what):
            return method(*args, **kwargs)

    return build


def check_length(loop: BaseLoop) -> None:
    """Check that a training has an iteration. Schedules by iteration can't be built without.

    Args:
        loop (BaseLoop): Of the training.

    Raises:
        UserError: If it has none.
    """
    for name in ('max_epochs', 'max_iters'):
        value = getattr(loop, name, 1)
        if value < 1:
            reason = 'there is nothing to train'
            if name == 'max_iters' and getattr(loop, 'max_epochs', 0) > 0:
                reason = (f'the {len(loop.dataloader.dataset)} images of train_dataloader.dataset do not fill a batch '
                          f'of {loop.dataloader.batch_size}: make train_dataloader.batch_size smaller')
            raise UserError(f'train_cfg: {name} is {value}, so {reason}')


def check_run(runner: Runner) -> None:
    """Check what has been built for a training, ahead of its first iteration.

    Args:
        runner (Runner): With its loops, model and data.

    Raises:
        UserError: If a number of classes or channels does not fit, training and
            validation set differ in their classes, validation never comes, or no metric is called as ``save_best``
            says.
    """
    loop, model = runner.train_loop, runner.model.module if is_model_wrapper(runner.model) else runner.model
    if getattr(loop, 'val_interval', 1) < 1:
        raise UserError(f'train_cfg.val_interval must be at least 1, got {loop.val_interval}: leave validation out by '
                        'val_cfg=None, val_dataloader=None, val_evaluator=None (--no-validate)')
    if getattr(model, 'with_head', True) is False:
        raise UserError('model.head is None, so there is no loss to train by: give a head')
    check_channels(model)
    for name, one in (('train_dataloader', runner.train_loop),
                      ('val_dataloader', runner.val_loop if runner._val_loop is not None else None)):
        if one is not None:
            check_classes(model, one.dataloader.dataset, name)
    if runner._val_loop is not None:
        check_same_classes(runner.train_loop.dataloader.dataset, runner.val_loop.dataloader.dataset)
    check_preprocessor(model)
    if hasattr(model, 'check_pipeline'):  # algorithms of pervit_mm.selfsup know what they need
        model.check_pipeline(runner.train_loop.dataloader.dataset)
    if runner._val_loop is not None:
        check_metrics(model, runner.val_loop.evaluator)
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and hook.save_best and 'auto' not in hook.key_indicators:
                check_save_best(hook.key_indicators, runner.val_loop.evaluator)


def innermost_dataset(cfg: dict, loader: str) -> tuple[str, Any]:
    """The data set of a loader within RepeatDataset, ClassBalancedDataset, MultiImageMixDataset and the like.

    Args:
        cfg (dict): The config.
        loader (str): Name of the loader, for example 'train_dataloader'.

    Returns:
        tuple[str, Any]: Where it stands in the config, for messages, and its config; None if there is no loader.
    """
    name, dataset = f'{loader}.dataset', (cfg.get(loader) or {}).get('dataset')
    while isinstance(dataset, dict) and isinstance(dataset.get('dataset'), dict):
        name, dataset = f'{name}.dataset', dataset['dataset']
    return name, dataset


def check_masks(cfg: dict) -> None:
    """Raise UserError if MMPretrain's ``SimMIMMaskGenerator`` has values that it would assert, or not look at.

    Args:
        cfg (dict): The config.
    """
    _, dataset = innermost_dataset(cfg, 'train_dataloader')
    for step in (dataset.get('pipeline') or ()) if isinstance(dataset, dict) else ():
        if type_name(step) != 'SimMIMMaskGenerator':
            continue
        size, unit, token = (step.get(name, default) for name, default in (
            ('input_size', 192), ('mask_patch_size', 32), ('model_patch_size', 4)))
        ratio = step.get('mask_ratio', 0.6)
        if size % unit or unit % token:
            raise UserError(f'SimMIMMaskGenerator of train_dataloader: mask_patch_size must divide input_size={size} '
                            f'and be a multiple of model_patch_size={token}, got {unit}')
        if not 0 < ratio < 1:
            raise UserError(f'SimMIMMaskGenerator of train_dataloader: mask_ratio must be above 0 and below 1, got '
                            f'{ratio!r}')


def check_channels(model: nn.Module) -> None:
    """Raise UserError if backbone, neck and head do not fit.

    Args:
        model (nn.Module): Of any toolbox. Parts that do not tell their channels are not checked.
    """
    backbone, neck, head = (getattr(model, name, None) for name in ('backbone', 'neck', 'head'))
    made = getattr(backbone, 'out_channels', None)
    if not isinstance(made, (tuple, list)) or not made:
        return
    pairs = [('in_stride', 'out_stride')]  # of a pyramid, whose levels would not be what the heads take them for
    if hasattr(neck, 'encoder_stride'):  # a decoder of pixels; a loss would broadcast other channels without a word
        pairs += [('encoder_stride', 'out_stride'), ('out_channels', 'in_channels')]
    pairs = [('neck', neck, *pair) for pair in pairs]
    if hasattr(head, 'patchify'):  # MAE's head: it cuts images into tokens of its own
        pairs += [('head', head, 'patch_size', 'out_stride'), ('head', head, 'in_channels', 'in_channels')]
    for part, module, name, value in pairs:
        given, own = getattr(module, name, None), getattr(backbone, value, None)
        if isinstance(given, int) and isinstance(own, int) and given != own:
            raise UserError(f'model.{part}.{name} is {given}, and the backbone has {value}={own}: set it to {own}')
    wanted = getattr(neck, 'in_channels', None)
    if isinstance(wanted, int) and hasattr(neck, 'encoder_stride'):
        wanted = [wanted]
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

    One name without a comma behind it is no tuple of classes, and its letters would count.

    Args:
        model (nn.Module): Of any toolbox.
        dataset (Any): Of a loader. One without ``metainfo['classes']`` is not checked.
        loader (str): Name of the loader, for the message.
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if isinstance(classes, str):
        raise UserError(f'{loader}.dataset.metainfo.classes is {classes!r}, and must be a tuple of names: for one '
                        f'class write ({classes!r}, )')
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


def check_same_classes(train: Any, val: Any, loader: str = 'val_dataloader') -> None:
    """Raise UserError if two data sets number their classes differently: labels would mean other things in each.

    Folders of classes are numbered in sorted order, so one that is missing shifts all behind it.

    Args:
        train (Any): The training set. One without ``metainfo['classes']`` is not checked.
        val (Any): The validation set, likewise.
        loader (str): Its loader, for the message. Defaults to 'val_dataloader'.
    """
    ours, theirs = (list((getattr(dataset, 'metainfo', None) or {}).get('classes') or ()) for dataset in (train, val))
    if not ours or not theirs or ours == theirs:
        return
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    first, second = (f'{names[at]!r}' if at < len(names) else 'nothing' for names in (ours, theirs))
    raise UserError(f'train_dataloader.dataset and {loader}.dataset differ in classes: class {at} is {first} '
                    f'in one and {second} in the other. Give both the same folders, or the same classes=')


def check_preprocessor(model: nn.Module) -> None:
    """Raise UserError if the preprocessor of images has other channels or classes than the model.

    Args:
        model (nn.Module): Of any toolbox. It may have no preprocessor.
    """
    preprocessor, head = getattr(model, 'data_preprocessor', None), getattr(model, 'head', None)
    channels = getattr(getattr(model, 'backbone', None), 'in_channels', None)
    for name in ('mean', 'std'):
        values = getattr(preprocessor, name, None)
        if isinstance(values, Tensor) and isinstance(channels, int) and len(values) not in (1, channels):
            raise UserError(f'data_preprocessor.{name} has {len(values)} values, and model.backbone.in_channels is '
                            f'{channels}: give one value for each channel')
    classes, outputs = getattr(preprocessor, 'num_classes', None), getattr(head, 'num_classes', None)
    one_hot = getattr(preprocessor, 'to_onehot', False)  # without it the number is not used
    if one_hot and isinstance(classes, int) and isinstance(outputs, int) and classes != outputs:
        raise UserError(f'data_preprocessor.num_classes is {classes}, and model.head.num_classes is {outputs}: set '
                        'both to the number of classes')


def check_metrics(model: nn.Module, evaluator: Evaluator) -> None:
    """Raise UserError if accuracies are asked for among more of the best classes than there are.

    Metrics with a method ``check_model`` say themselves whether they fit.

    Args:
        model (nn.Module): Of any toolbox.
        evaluator (Evaluator): Of the validation.
    """
    for metric in evaluator.metrics:
        if hasattr(metric, 'check_model'):
            metric.check_model(model)
    outputs = getattr(getattr(model, 'head', None), 'num_classes', None)
    for metric in _accuracies(evaluator):
        if not all(type(k) is int and k > 0 for k in metric.topk):
            raise UserError(f'val_evaluator.topk must be positive integers, got {metric.topk!r}')
        if isinstance(outputs, int) and max(metric.topk) > outputs:
            raise UserError(f'val_evaluator.topk is {metric.topk}, and there are {outputs} classes: leave out what is '
                            'larger, in model.head.topk too')


def check_save_best(keys: Iterable[str], evaluator: Evaluator) -> None:
    """Raise UserError if ``save_best`` names a metric that the evaluator cannot give.

    A metric's names are known only after a validation. Its prefix is known ahead, and so are the names of accuracies.

    Args:
        keys (Iterable[str]): Names of metrics.
        evaluator (Evaluator): Of the validation. If a metric has no prefix, all names are let through.
    """
    if not all(metric.prefix for metric in evaluator.metrics):
        return
    accuracies = _accuracies(evaluator)
    # With several thresholds, names have a suffix.
    names = [f'{metric.prefix}/top{k}' for metric in accuracies for k in metric.topk if len(metric.thrs) == 1]
    begins = [f'{metric.prefix}/' for metric in evaluator.metrics if metric not in accuracies or len(metric.thrs) > 1]
    for key in keys:
        if key not in names and not key.startswith(tuple(begins)):
            known = ' or '.join([*names, *(f'{begin}…' for begin in begins)])
            raise UserError(f'default_hooks.checkpoint.save_best is {key!r}, and the metrics are {known}')


def _accuracies(evaluator: Evaluator) -> list:
    """MMPretrain's ``Accuracy`` metrics; this module does not import MMPretrain."""
    return [metric for metric in evaluator.metrics if type(metric).__name__ == 'Accuracy' and metric.prefix]
