"""Attention against object masks: does a head look at objects?"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..analysis.attention import check_map
from ..analysis.capture import BlockRecord, capture, find_backbone
from ..utils.errors import UserError, UserTypeError
from .features import evaluating, to_model

#: Label of pixels that MMSegmentation ignores.
IGNORED = 255
#: Values that differ by less than this share count as equal: float32 rounds equal means of attention in several ways.
TIE = 1e-6


@dataclass(frozen=True)
class MaskIoU:
    """How far the attention of each head covers the objects.

    Attributes:
        iou (Tensor): Intersection over union for each image and head, ``(B, nH)`` float64, 0 to 1.
        chance (Tensor): What a random choice of as many tokens reaches on average, ``(B,)`` float64.
    """

    iou: Tensor
    chance: Tensor


def token_masks(masks: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """Tokens of which more than half of the pixels belong to an object.

    Args:
        masks (Tensor): ``(B, h, w)``, Boolean or label maps, in the size of the network's input. 0 is the ground and
            all else is object, as in the label maps of FashionScenes.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens. If the input is no multiple of the stride, the mask is cut
            into equal parts all the same, which are off by less than a stride.

    Returns:
        Tensor: Boolean ``(B, N)``.

    Raises:
        UserError: If ``masks`` has another number of axes.
    """
    if masks.dim() != 3:
        raise UserError(f'masks must be (B, h, w), got the shape {tuple(masks.shape)}: one mask for each image')
    share = F.interpolate((masks > 0).float()[:, None], tuple(hw_shape), mode='area')
    return share.flatten(1) > 0.5


def mask_iou(attention: Tensor, masks: Tensor, hw_shape: tuple[int, int]) -> MaskIoU:
    """Intersection over union of the objects with the tokens that receive most attention.

    A token's attention is the mean over all queries. As many tokens are taken as the objects cover. So attention that
    equals the mask gives 1, all heads are compared at the same area, and the chance level is exact. This rule is
    **ours**. Walmer et al. 2023 and DINO take the tokens that hold 60 % of the attention; there a head gains by the
    area alone, so their figures can't be compared with these.

    Where tokens tie at the threshold, the result is the mean over all choices among them. So uniform attention gives
    exactly the chance level.

    Args:
        attention (Tensor): Φa ``(B, nH, N, N)``, rows queries.
        masks (Tensor): ``(B, h, w)``, see :func:`token_masks`.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.

    Returns:
        MaskIoU: NaN for images of which no token is object.

    Raises:
        UserError: If the shapes don't fit together.
    """
    check_map(attention, hw_shape)
    if attention.dim() != 4 or len(attention) != len(masks):
        raise UserError(f'attention must be (B, nH, N, N) with a mask for each image, got {tuple(attention.shape)} and '
                        f'{len(masks)} masks')
    objects = token_masks(masks.to(attention.device), hw_shape)
    received = attention.double().mean(dim=-2)  # (B, nH, N)
    return MaskIoU(_iou_at_same_area(received, objects[:, None]),
                   _iou_at_same_area(received.new_zeros(objects.shape), objects))


def mask_average_precision(received: Tensor, masks: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """Average precision with which the attention of tokens ranks those of objects ahead of the ground.

    It asks for the order of the tokens alone, while :func:`mask_iou` also sets a threshold. A map that is the same for
    all images, such as a prior, is the control.

    Args:
        received (Tensor): Attention that each token receives, ``(B, nH, N)``.
        masks (Tensor): ``(B, h, w)``, see :func:`token_masks`.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.

    Returns:
        Tensor: ``(B, nH)`` float64, 0 to 1; NaN for images of which no token is object. scikit-learn makes it.

    Raises:
        UserError: If the shapes don't fit together, or scikit-learn is missing.
    """
    try:
        from sklearn.metrics import average_precision_score
    except ImportError as error:
        raise UserError('average precision needs scikit-learn: pip install scikit-learn') from error
    if received.dim() != 3 or len(received) != len(masks) or received.shape[2] != hw_shape[0] * hw_shape[1]:
        raise UserError(f'received must be (B, nH, N) for {len(masks)} masks and hw_shape={tuple(hw_shape)}, got '
                        f'{tuple(received.shape)}')
    objects = token_masks(masks, hw_shape).cpu().numpy()
    result = torch.full(received.shape[:2], torch.nan, dtype=torch.float64)
    for image, (heads, truth) in enumerate(zip(received.detach().double().cpu().numpy(), objects)):
        if truth.any():
            result[image] = torch.tensor([average_precision_score(truth, head) for head in heads])
    return result


def attention_mask_iou(model: nn.Module, batches: Iterable) -> dict[int, MaskIoU]:
    """:func:`mask_iou` of every block of a model over a data set.

    Args:
        model (nn.Module): As for :func:`pervit_mm.analysis.capture`. It is run in eval mode and left as it was.
        batches (Iterable): Pairs of inputs ``(B, C, h, w)``, which are normalized already, and masks ``(B, h, w)``; or
            batches of a data loader of MMSegmentation, for a segmentor, whose label 0 must be the ground. Pixels
            without a label (255) count as ground.

    Returns:
        dict[int, MaskIoU]: By block, on the CPU, in the order of ``batches``. Take ``nanmean`` over images.

    Raises:
        UserError: If there is no batch, a batch has no masks, or :func:`pervit_mm.analysis.capture` or :func:`mask_iou`
            refuses.
    """
    found: dict[int, list[MaskIoU]] = {}
    with evaluating(model):
        for batch in batches:
            inputs, masks = _inputs_and_masks(model, batch)

            def measure(block: BlockRecord, masks: Tensor = masks) -> tuple[int, MaskIoU]:
                result = mask_iou(block.attention, masks, block.hw_shape)
                return block.index, MaskIoU(result.iou.cpu(), result.chance.cpu())

            with capture(model, each=measure) as record:
                find_backbone(model)(inputs)
            for index, result in record:
                found.setdefault(index, []).append(result)
    if not found:
        raise UserError('batches is empty: give a data loader, or a list of pairs (inputs, masks)')
    return {index: MaskIoU(torch.cat([part.iou for part in parts]), torch.cat([part.chance for part in parts]))
            for index, parts in found.items()}


def _inputs_and_masks(model: nn.Module, batch: Mapping | tuple) -> tuple[Tensor, Tensor]:
    """Inputs of the network on its device, and masks ``(B, h, w)``."""
    if isinstance(batch, Mapping):
        data = getattr(model, 'module', model).data_preprocessor(dict(batch), False)
        samples = data['data_samples']
        if not samples or not all('gt_sem_seg' in sample for sample in samples):
            raise UserError('batches of a data loader must have label maps (gt_sem_seg): put LoadAnnotations into the '
                            'pipeline, or give pairs (inputs, masks)')
        masks = torch.stack([_as_input(sample, data['inputs'].shape[2:]) for sample in samples])
        return to_model(model, data['inputs']), masks.masked_fill(masks == IGNORED, 0)
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(x, Tensor) for x in batch)):
        raise UserTypeError(f'batches must hold pairs (inputs, masks) of tensors, got {type(batch).__name__}')
    inputs, masks = batch
    if masks.dim() != 3 or masks.shape != (len(inputs), *inputs.shape[2:]):
        raise UserError(f'masks must be (B, h, w) in the size of the inputs {tuple(inputs.shape)}, got '
                        f'{tuple(masks.shape)}: resize or pad them as the images')
    return to_model(model, inputs), masks


def _as_input(sample: BaseDataElement, size: Sequence[int]) -> Tensor:
    """The label map of a sample in the size of its input: MMSegmentation neither resizes nor pads it in testing."""
    mask = sample.gt_sem_seg.data[None]
    img_shape = tuple(sample.metainfo.get('img_shape', mask.shape[2:])[:2])
    if mask.shape[2:] != img_shape:
        mask = F.interpolate(mask.double(), img_shape, mode='nearest-exact').to(mask.dtype)
    below, right = (side - own for side, own in zip(size, img_shape))
    if min(below, right) < 0:
        raise UserError(f'the label map of an image of {img_shape} pixels cannot be laid on an input of {tuple(size)}: '
                        'give pairs (inputs, masks)')
    return F.pad(mask, (0, right, 0, below))[0, 0]


def _iou_at_same_area(received: Tensor, objects: Tensor) -> Tensor:
    """Mean intersection over union with the top tokens, as many as there are object tokens.

    Tokens above the threshold are taken surely. Those within :data:`TIE` of it count as equal. Of c tokens at the
    threshold, r are taken at random, m of them object: how many of these are hit follows the hypergeometric
    distribution.

    Args:
        received (Tensor): ``(..., N)``.
        objects (Tensor): Boolean, broadcast to the same shape.

    Returns:
        Tensor: ``(...)`` float64, NaN without object tokens.
    """
    objects = objects.expand_as(received)
    area = objects.sum(-1, keepdim=True)
    ranked = received.sort(dim=-1, descending=True).values
    threshold = ranked.gather(-1, (area - 1).clamp(min=0))
    tied = (received - threshold).abs() <= TIE * threshold.abs()
    above = (received > threshold) & ~tied
    sure, r = (above & objects).sum(-1, keepdim=True), area - above.sum(-1, keepdim=True)
    c, m = tied.sum(-1, keepdim=True), (tied & objects).sum(-1, keepdim=True)
    hits = torch.arange(received.shape[-1] + 1, device=received.device)
    possible = (hits <= m) & (hits <= r) & (r - hits <= c - m)
    log_chance = _log_choose(m, hits) + _log_choose(c - m, r - hits) - _log_choose(c, r)
    chance = log_chance.exp().where(possible, 0.)
    inside = (sure + hits).double()
    return (chance * inside / (2 * area - inside).where(possible, 1.)).sum(-1).where(area[..., 0] > 0, torch.nan)


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    """Logarithm of the binomial coefficient; callers mask what lies outside 0 <= k <= n."""
    n, k = n.double(), k.double().clamp(min=0)
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma((n - k).clamp(min=0) + 1)
