"""What a pre-training learned, by measures that need no labels: hidden pixels, and matches between two crops."""
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import TRANSFORMS, DefaultScope
from torch import Tensor

from ..checkpoints import read_checkpoint
from ..checkpoints.files import entry_of
from ..engine.hooks.random_state import get_generators, set_generators
from ..evaluation import RegionMatching, region_matching_accuracy
from ..evaluation.features import read_batch
from ..evaluation.region_matching import token_stride
from ..selfsup import MAEPerViT
from ..selfsup.hidden_pixels import HiddenPixelError, hidden_pixel_error, mean_of
from ..utils.errors import UserError
from ..utils.type_names import type_name
from .building import build_with_preprocessor, load_strictly
from .labeled_sets import build_loader, build_sets, check_recalibration, recalibrate_by
from .named_models import check_device
from .scored_backbones import classifier_or_random


def score_hidden_pixels(cfg: Config, checkpoint: str, labels: Config, *, images: int | None = None, seed: int = 0,
                        device: str | None = None) -> HiddenPixelError:
    """Measure the error of a SimMIM or MAE on the pixels that it doesn't see, on the test images of another config.

    Args:
        cfg (Config): Of the pre-training. The ``SimMIMMaskGenerator`` of its training pipeline draws the masks, or an
            ``MAEPerViT`` itself.
        checkpoint (str): Path of its checkpoint.
        labels (Config): Of a classifier on the same images. Its training set, with the pipeline of its test set, makes
            the mean image, and its test set is scored.
        images (int, optional): Images of the test set, evenly from its first to its last. Defaults to None, all.
        seed (int): Draws the masks. Defaults to 0.
        device (str, optional): Defaults to None, which takes a GPU if there is one.

    Returns:
        HiddenPixelError: Of the model and of two predictors that learn nothing.

    Raises:
        UserError: If nothing in the pre-training draws masks, or the checkpoint or the images don't fit.
    """
    steps = [step for step in cfg.train_dataloader.dataset.get('pipeline', ()) if 'MaskGenerator' in type_name(step)]
    model = build_with_preprocessor(cfg)
    if isinstance(model.backbone, MAEPerViT):
        draw = model.backbone.draw_mask
    elif len(steps) == 1:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
            generator = TRANSFORMS.build(steps[0])

        def draw(inputs: Tensor) -> Tensor:
            masks = np.stack([generator.transform({})['mask'] for _ in inputs])
            return torch.from_numpy(masks).to(inputs.device)
    else:
        raise UserError(f'config {str(cfg.filename)!r} must have one SimMIMMaskGenerator in its training pipeline, got '
                        f'{len(steps)}: give the config of a SimMIM or an MAE')
    load_strictly(model, entry_of(read_checkpoint(checkpoint), 'state_dict'), f"'{checkpoint}'")
    model.to(check_device(device or get_device()))
    loaders = [build_loader(labels, part) for part in build_sets(labels, None, images)]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loaders[1]:
            inputs, _ = read_batch(model, batch)
            yield inputs, draw(inputs)

    mean_image = mean_of(model, loaders[0])
    state = get_generators()
    np.random.seed(seed)  # SimMIM's masks
    torch.manual_seed(seed)  # MAE's
    try:
        return hidden_pixel_error(model, batches(), mean_image)
    finally:
        set_generators(state)


def score_region_matching(cfg: Config, checkpoint: str | None, *, prefix: str = 'backbone.', crop: int | None = None,
                          shift: int | None = None, images: int = 1000, tolerances: Sequence[float] = (0., 1.),
                          seed: int = 0, recalibration: int = 0, device: str | None = None) -> list[RegionMatching]:
    """Match tokens of two crops of test images, see :func:`pervit_mm.evaluation.region_matching_accuracy`.

    Args:
        cfg (Config): Of a classifier.
        checkpoint (str, optional): Path, of a classifier or of a pre-training. None takes random weights.
        prefix (str): What the backbone's keys in it begin with. Defaults to 'backbone.'.
        crop (int, optional): Side of the crops in pixels. Defaults to None, about 5/7 of the image in whole tokens.
        shift (int, optional): From one crop to the other, in pixels: up, down, left or right. Defaults to None, two
            tokens.
        images (int): Images of the test set, evenly from its first to its last. Defaults to 1000.
        tolerances (Sequence[float]): Largest distances of a right match, in tokens. Defaults to (0, 1).
        seed (int): Draws the places of the crops, and random weights. Defaults to 0.
        recalibration (int): Training images from which BatchNorm gets its statistics anew, for networks that learned
            from masked or corrupted ones. Defaults to 0, none.
        device (str, optional): Defaults to None, which takes a GPU if there is one.

    Returns:
        list[RegionMatching]: Accuracy and chance in percent, for each of ``tolerances``.

    Raises:
        UserError: As :func:`pervit_mm.apis.scored_backbones.classifier_or_random` and ``region_matching_accuracy``.
    """
    check_recalibration(recalibration)
    model = classifier_or_random(cfg, checkpoint, prefix, seed).to(check_device(device or get_device()))
    backbone = model.backbone
    if hasattr(backbone, 'out_type'):
        backbone.out_type = 'raw'
    bank, queries = build_sets(cfg, None, images)
    recalibrate_by(cfg, model, bank, recalibration)
    inputs = torch.cat([read_batch(model, batch)[0] for batch in build_loader(cfg, queries)])
    stride = token_stride(backbone, inputs)
    crop = crop or max(stride, round(min(inputs.shape[2:]) * 5 / 7 / stride) * stride)
    shift = shift or 2 * stride
    offsets = [(shift, 0), (-shift, 0), (0, shift), (0, -shift)]
    return [region_matching_accuracy(backbone, inputs, offsets, crop, tolerance, seed) for tolerance in tolerances]
