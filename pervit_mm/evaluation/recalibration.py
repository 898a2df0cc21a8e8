"""BatchNorm statistics for images as they are, after a training on images that were masked or corrupted."""
from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..analysis.capture import find_backbone
from ..utils.errors import UserError
from .features import evaluating, read_batch


def recalibrate(model: nn.Module, batches: Iterable, num_images: int = 8192) -> int:
    """Compute the running statistics of the backbone's BatchNorm anew, in place; nothing else changes.

    The statistics become the mean over the batches, as in Wu and Johnson 2021 (Rethinking "Batch" in BatchNorm),
    section 3. MMPretrain's ``PreciseBNHook`` does the same with the training batches of a run. Here the images are
    clean ones, and only the backbone runs.

    Args:
        model (nn.Module): Its backbone is run with BatchNorm in training mode and all else in eval mode.
        batches (Iterable): A data loader, or batches, see :func:`pervit_mm.evaluation.features.read_batch`.
        num_images (int): Stops after the batch with which so many are seen. Defaults to 8192.

    Returns:
        int: Number of BatchNorm layers; 0 if there is none, and then nothing is run.

    Raises:
        UserError: If ``num_images`` is not positive or there is no batch.
    """
    if type(num_images) is not int or num_images < 1:
        raise UserError(f'num_images must be a positive number, got {num_images!r}')
    backbone = find_backbone(model)
    layers = [m for m in backbone.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        return 0
    momenta, seen = [layer.momentum for layer in layers], 0
    with evaluating(model):
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum, layer.training = None, True  # without momentum: the mean over all batches
        try:
            for batch in batches:
                inputs, _ = read_batch(model, batch)
                backbone(inputs)
                seen += len(inputs)
                if seen >= num_images:
                    break
        finally:
            for layer, momentum in zip(layers, momenta):
                layer.momentum = momentum
    if not seen:
        raise UserError('batches is empty: give a data loader, or a list of batches, with at least one image')
    return len(layers)
