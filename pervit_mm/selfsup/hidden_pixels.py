"""Error on hidden pixels, beside those of two predictors that learn nothing."""
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..evaluation.features import evaluating, to_model
from ..utils.errors import UserError, UserTypeError
from .mae_backbone import MAEPerViT
from .mask_token import as_hidden


@dataclass(frozen=True)
class HiddenPixelError:
    """Mean absolute error per hidden pixel and channel, in units of the normalized image.

    Attributes:
        model (float): Of the model.
        mean_image (float): Of the mean training image, which is the same for all images.
        nearest_patch (float): Of a copy of the nearest visible patch, see :func:`copy_nearest_patch`.
        images (int): Number of images.
    """

    model: float
    mean_image: float
    nearest_patch: float
    images: int


def hidden_pixel_error(model: nn.Module, batches: Iterable, mean_image: Tensor) -> HiddenPixelError:
    """Measure what a masked model (SimMIM, Xie et al. 2022; MAE, He et al. 2022) predicts of hidden pixels.

    Beside it stand two predictors that learn nothing: the mean image by position, and a copy of the nearest visible
    patch. All three are asked about the same pixels, and each hidden pixel counts the same.

    Args:
        model (nn.Module): MMPretrain's ``SimMIM``, or another with ``backbone(images, mask)``, ``neck`` and ``head``.
            Or its ``MAE`` with an ``MAEPerViT``, where the masks of a batch hide the same number of tokens. It is run
            in eval mode and left as it was. Weights may be float32 or bfloat16.
        batches (Iterable): A data loader whose pipeline has ``SimMIMMaskGenerator``; or pairs of images
            ``(B, C, h, w)``, which are normalized already, and masks ``(B, H, W)``, 1 for hidden tokens.
        mean_image (Tensor): ``(C, h, w)``, normalized. Make it from training images by :func:`mean_of`, so that the
            images that are scored take no part in it.

    Returns:
        HiddenPixelError: Over all hidden pixels of all images.

    Raises:
        UserError: If the model is of another kind, a batch has no masks or they don't fit the images, an image has no
            visible token, no image has a hidden one, or ``mean_image`` or the prediction has another shape than an
            image.

    Examples:
        >>> mean_image = mean_of(model, train_loader)
        >>> hidden_pixel_error(model, test_loader, mean_image)
    """
    model = _check_model(model)
    sums, count, seen = torch.zeros(3, dtype=torch.float64), 0, 0
    with evaluating(model):
        for batch in batches:
            images, mask = _read(model, batch)
            if mask is None:
                raise UserError('batches must have one mask for each image, and one has none: put SimMIMMaskGenerator '
                                'ahead of PackInputs in the pipeline, or give pairs (images, masks)')
            hidden = as_hidden(mask)
            _check_shapes(images, hidden, mean_image)
            predicted = predict(model, images, mask)
            counted = spread(hidden, images.shape[2:])[:, None].expand_as(images)
            targets = images[counted].double()
            predictors = predicted, mean_image.to(images).expand_as(images), copy_nearest_patch(images, hidden)
            for number, predictor in enumerate(predictors):
                sums[number] += (predictor[counted].double() - targets).abs().sum().cpu()
            count, seen = count + len(targets), seen + len(images)
    if not seen:
        raise UserError('batches is empty: give a data loader, or a list of pairs (images, masks)')
    if not count:
        raise UserError(f'batches hide no pixel of {seen} images: give masks with 1 for hidden tokens, such as '
                        'SimMIMMaskGenerator makes with a mask_ratio above 0')
    return HiddenPixelError(*(sums / count).tolist(), seen)


def mean_of(model: nn.Module, batches: Iterable) -> Tensor:
    """The mean image by position, for :func:`hidden_pixel_error`.

    Args:
        model (nn.Module): Its data preprocessor prepares the batches of a data loader.
        batches (Iterable): Training images, as in :func:`hidden_pixel_error`, cropped and resized as those that are
            scored. Masks are not looked at and may be missing.

    Returns:
        Tensor: ``(C, h, w)`` float32, normalized, on the CPU.

    Raises:
        UserError: If there is no image, or images differ in size.
    """
    model, total, seen = getattr(model, 'module', model), None, 0
    for batch in batches:
        images, _ = _read(model, batch)
        if total is not None and total.shape != images.shape[1:]:
            raise UserError(f'all images must have one shape, got {tuple(total.shape)} and then '
                            f'{tuple(images.shape[1:])}: resize them')
        part = images.double().sum(0).cpu()
        total, seen = part if total is None else total + part, seen + len(images)
    if not seen:
        raise UserError('batches is empty: give a data loader, or a list of pairs (images, masks)')
    return (total / seen).float()


def predict(model: nn.Module, images: Tensor, mask: Tensor) -> Tensor:
    """The image that a masked model makes of the visible tokens, from backbone to neck as its ``loss`` does.

    Args:
        model (nn.Module): As for :func:`hidden_pixel_error`.
        images (Tensor): Normalized, ``(B, C, h, w)``.
        mask (Tensor): ``(B, H, W)``, 1 for hidden tokens.

    Returns:
        Tensor: ``(B, C, h, w)`` float32.

    Raises:
        UserError: If the model makes an image of another shape.
    """
    latent, *places = model.backbone(_as_weights(model.backbone, images), mask)
    latent = _as_weights(model.neck, latent)
    if isinstance(model.backbone, MAEPerViT):
        predicted = model.head.unpatchify(model.neck(latent, places[-1])).float()
    else:
        predicted = model.neck(latent).float()
    if predicted.shape != images.shape:  # gray against color would broadcast without a word
        raise UserError(f'model predicts {tuple(predicted.shape)} for images {tuple(images.shape)}: give its neck '
                        'out_channels and encoder_stride of these images')
    return predicted


def copy_nearest_patch(images: Tensor, hidden: Tensor) -> Tensor:
    """Fill each hidden token with the pixels of the nearest visible one.

    Near is by Euclidean distance between the centers of tokens. Of equally near ones, the first one counts, row by row.

    Args:
        images (Tensor): ``(B, C, h, w)``.
        hidden (Tensor): Boolean ``(B, H, W)``; h and w are multiples of H and W.

    Returns:
        Tensor: ``(B, C, h, w)``, with visible pixels as they were.

    Raises:
        UserError: If an image has no visible token.
    """
    b, c, h, w = images.shape
    rows, columns = hidden.shape[1:]
    side = h // rows, w // columns
    places = torch.cartesian_prod(torch.arange(rows) * side[0], torch.arange(columns) * side[1]).to(images.device)
    patches = images.reshape(b, c, rows, side[0], columns, side[1]).permute(0, 2, 4, 1, 3, 5).flatten(1, 2).clone()
    # One image at a time: distances of all tokens of a batch at once could fill the memory.
    for own, missing in zip(patches, hidden.flatten(1)):
        blank, seen = missing.nonzero()[:, 0], (~missing).nonzero()[:, 0]
        if not len(seen):
            raise UserError('batches must leave a token of each image visible, and one has none: lower mask_ratio')
        # Squares of whole numbers, so that equal distances are equal. argmin gives the first of equal ones.
        squares = (places[blank][:, None] - places[seen]).square().sum(-1)
        own[blank] = own[seen[squares.argmin(1)]]
    return patches.unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)


def spread(hidden: Tensor, size: Sequence[int]) -> Tensor:
    """Spread a mask of tokens ``(B, H, W)`` over the pixels, ``(B, *size)``."""
    h, w = size
    return hidden.repeat_interleave(h // hidden.shape[1], 1).repeat_interleave(w // hidden.shape[2], 2)


def _as_weights(module: nn.Module, x: Tensor) -> Tensor:
    """``x`` in the dtype of the weights, so that a model in bfloat16 runs without autocast."""
    return x.to(next(module.parameters(), x).dtype)


def _check_model(model: nn.Module) -> nn.Module:
    """The model without a wrapper, or UserError if it is not like SimMIM."""
    model = getattr(model, 'module', model)
    missing = [part for part in ('backbone', 'neck', 'head') if not isinstance(getattr(model, part, None), nn.Module)]
    if missing:
        raise UserError(f'model must be like SimMIM of MMPretrain, and {type(model).__name__} has no '
                        f'{" and no ".join(missing)}')
    if isinstance(model.backbone, MAEPerViT):
        if not hasattr(model.head, 'unpatchify') or model.head.norm_pix:
            raise UserError('model must predict pixels as they are, by an MAEPretrainHead with norm_pix=False, got '
                            f'{type(model).__name__} with {type(model.head).__name__}(norm_pix='
                            f'{getattr(model.head, "norm_pix", None)})')
        return model
    needed = [parameter for parameter in inspect.signature(model.neck.forward).parameters.values()
              if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    if 'mask' not in inspect.signature(model.backbone.forward).parameters or len(needed) > 1:
        raise UserError(f'model must be like SimMIM of MMPretrain, with backbone(images, mask) and neck(features), got '
                        f'{type(model).__name__} of {type(model.backbone).__name__} and {type(model.neck).__name__}')
    return model


def _read(model: nn.Module, batch: Mapping | Sequence) -> tuple[Tensor, Tensor | None]:
    """Normalized images and masks of a batch on the model's device; None if there are no masks."""
    if isinstance(batch, Mapping):
        # By name, in this order: SelfSupDataPreprocessor takes what comes first for the images.
        batch = dict(inputs=batch['inputs'], data_samples=batch.get('data_samples') or [])
        if getattr(model, 'data_preprocessor', None) is None:
            raise UserError(f'model {type(model).__name__} has no data_preprocessor for the batches of a data loader: '
                            'give pairs (images, masks)')
        data = model.data_preprocessor(batch, training=False)
        images, samples = data['inputs'], data.get('data_samples') or []
        masks = [sample.mask for sample in samples if 'mask' in sample]
        if masks and len(masks) < len(samples):
            raise UserError(f'batches must have one mask for each image, got {len(masks)} masks for {len(samples)}')
        mask = torch.stack(masks) if masks else None
    elif isinstance(batch, (tuple, list)) and len(batch) == 2:
        images, mask = batch
    else:
        raise UserTypeError('batches must hold pairs (images, masks) or dicts of a data loader, got '
                            f'{type(batch).__name__}')
    if not isinstance(images, Tensor) or images.dim() != 4:
        raise UserTypeError('batches must hold images as one tensor (B, C, h, w), got '
                            f'{tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__}: one view '
                            "of each image, and collate_fn=dict(type='default_collate') in the data loader")
    images = to_model(model, images)
    return images, mask.to(images.device) if isinstance(mask, Tensor) else mask


def _check_shapes(images: Tensor, hidden: Tensor, mean_image: Tensor) -> None:
    """Raise UserError unless masks and mean image fit the images."""
    if hidden.dim() != 3 or len(hidden) != len(images) or any(
            pixels % tokens for pixels, tokens in zip(images.shape[2:], hidden.shape[1:])):
        raise UserError(f'masks must be (B, H, W) for images {tuple(images.shape)}, whose sides are multiples of H and '
                        f'W, got {tuple(hidden.shape)}: one entry for each token')
    if not isinstance(mean_image, Tensor) or mean_image.shape != images.shape[1:]:
        got = tuple(mean_image.shape) if isinstance(mean_image, Tensor) else type(mean_image).__name__
        raise UserError(f'mean_image must be a tensor {tuple(images.shape[1:])} as an image is, got {got}: make it by '
                        'mean_of from training images of the same size')
