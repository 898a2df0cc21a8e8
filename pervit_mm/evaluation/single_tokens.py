"""Single tokens: how well the classifier does when its head sees one token in place of all."""
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from ..analysis.logit_cam import logit_cam
from ..utils.errors import UserError
from .features import evaluating, read_batch


@dataclass(frozen=True)
class SingleTokens:
    """Top-1 accuracy of the head on single tokens, in percent.

    Attributes:
        by_place (Tensor): For the token at each place, ``(H, W)`` float64.
        all_tokens (float): For all tokens together, which is the model's own accuracy.
    """

    by_place: Tensor
    all_tokens: float

    @property
    def mean(self) -> float:
        """Mean over places."""
        return self.by_place.mean().item()

    @property
    def max(self) -> float:
        """The best place, chosen on the same images: a little higher than it would be on others."""
        return self.by_place.max().item()


def single_token_accuracy(model: nn.Module, batches: Iterable) -> SingleTokens:
    """Let the classifier's linear head classify each token of the last block alone.

    Ghiasi et al. 2022 (What do Vision Transformers Learn?, section 4, table 1). If single tokens do as well as all of
    them, the last block has spread what it knows over the whole grid. If they don't, tokens keep to their places.

    Args:
        model (nn.Module): A classifier for which :func:`pervit_mm.analysis.logit_cam` is defined. It is run in eval
            mode and left as it was.
        batches (Iterable): A data loader, or batches with labels, see :func:`pervit_mm.evaluation.features.read_batch`.

    Returns:
        SingleTokens: Over all images.

    Raises:
        UserError: As :func:`pervit_mm.analysis.logit_cam`; if there is no image, one has no label, or images have
            different grids.
    """
    right, right_together, count = None, 0, 0
    with evaluating(model):
        for batch in batches:
            inputs, labels = read_batch(model, batch)
            if labels is None:
                raise UserError('batches must have labels, got images without: take a data set with labels')
            cam, labels = logit_cam(model, inputs), labels.to(inputs.device)
            if right is not None and right.shape != cam.shape[2:]:
                raise UserError(f'all images must have one grid of tokens, got {tuple(right.shape)} and then '
                                f'{tuple(cam.shape[2:])}: resize them to one size')
            hits = (cam.argmax(dim=1) == labels[:, None, None]).sum(dim=0)
            right = hits if right is None else right + hits
            right_together += int((cam.mean(dim=(2, 3)).argmax(dim=1) == labels).sum())
            count += len(labels)
    if not count:
        raise UserError('batches is empty: give a data loader, or a list of batches, with at least one image')
    return SingleTokens(100 * right.cpu().double() / count, 100 * right_together / count)
