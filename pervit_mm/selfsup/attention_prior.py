"""Priors on where heads look: SPAN, on Φp and on attention."""
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from torch import Tensor, nn

from ..models import PerViT
from ..utils.errors import UserError
from .block_maps import BlockMaps, check_content, record_blocks
from .checks import check_positive
from .mae_backbone import MAEPerViT
from .prior_files import AttentionPrior, read_prior


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """KL(target ‖ softmax of logits), mean over everything but the keys.

    What a row of Φp is multiplied by cancels in attention. So rows are normalized first, and a common factor costs
    nothing.

    Args:
        target (Tensor): Rows that sum to one, ``(..., N)``, broadcast to the shape of ``logits``.
        logits (Tensor): ``(..., N)``, such as log Φp.

    Returns:
        Tensor: One value, in nats.
    """
    return F.kl_div(logits.log_softmax(-1), target.expand_as(logits), reduction='none').sum(-1).mean()


@dataclass(frozen=True)
class _Entry:
    """A prior on heads of a block."""

    prior: AttentionPrior
    block: int
    heads: tuple[int, ...]
    weight: float


@MODELS.register_module()
class AttentionPriorLoss(nn.Module):
    """Pull named heads towards priors: spatial prior attention, SPAN (2022, arXiv 2209.03745).

    SPAN regularizes attention of single heads of a ViT towards maps of regions. Its loss was not to be had, so the
    losses here are **ours**. PerViT has two places for a prior:

    - A relative prior says which offsets a head looks at. It goes to Φp, which knows offsets alone:
      KL(prior ‖ row-normalized Φp) on the grid of the prior, mean over queries and heads. It needs no image, so it fits
      every training: several sizes, windows, dropped tokens.
    - An absolute prior says which tokens a head looks at. It goes to attention: KL(prior ‖ column mean of Φa), mean
      over images and heads. The column mean over queries is the weight of each token in the head's mean output.

    A prior on Φp has no gradient in other heads' rows of the second convolution and of the last norm. The first
    convolution and the distance projection are shared by all heads of a block, and of all blocks, and do change.

    Args:
        priors (Sequence[dict]): Each has ``prior`` (a file, see :mod:`pervit_mm.selfsup.prior_files`, or an
            :class:`AttentionPrior`), ``block`` (from 0, negative ones from the end), ``heads`` (numbers from 0), and
            ``loss_weight`` (defaults to 1).

    Raises:
        UserError: If one of them has other keys or cannot be read; see also :meth:`check`.

    Examples:
        >>> from pervit_mm.models import PerViT
        >>> from pervit_mm.selfsup.prior_files import gaussian_prior
        >>> loss = AttentionPriorLoss([dict(prior=gaussian_prior((7, 7), 1.), block=0, heads=[0])])
        >>> model = PerViT('nano', img_size=28)
        >>> loss.check(model)
        >>> loss(model)['position_prior_loss'].ndim
        0
    """

    def __init__(self, priors: Sequence[dict]) -> None:
        super().__init__()
        if not priors:
            raise UserError('priors must name at least one prior, got none')
        self.entries = [self._read(i, dict(entry)) for i, entry in enumerate(priors)]
        for i, entry in enumerate(self.entries):
            # No part of a checkpoint: the file has it.
            self.register_buffer(f'target{i}', entry.prior.target(), persistent=False)

    @staticmethod
    def _read(number: int, entry: dict) -> _Entry:
        name, keys = f'priors[{number}]', {'prior', 'block', 'heads'}
        if not keys <= entry.keys() <= keys | {'loss_weight'}:
            raise UserError(f'{name} must have prior, block, heads, and may have loss_weight, got {sorted(entry)}')
        prior, block, heads = entry['prior'], entry['block'], entry['heads']
        if isinstance(heads, str) or not isinstance(heads, Sequence) or not heads or not all(
                type(head) is int and head >= 0 for head in heads):
            raise UserError(f'heads of {name} must be numbers of heads from 0, such as [0], got {heads!r}')
        if type(block) is not int:
            raise UserError(f'block of {name} must be the number of a block, got {block!r}')
        weight = entry.get('loss_weight', 1.)
        check_positive(**{f'loss_weight of {name}': weight})
        if not isinstance(prior, AttentionPrior):
            prior = read_prior(prior)
        return _Entry(prior, block, tuple(heads), weight)

    def check(self, backbone: nn.Module) -> None:
        """Check that a backbone has the named heads, and count negative blocks from its end.

        Args:
            backbone (nn.Module): Of the training.

        Raises:
            UserError: If it is no PerViT, or has no such block or head; if a relative prior is for a block without Φp,
                or one whose Φp has no weights; if an absolute prior is for a block that doesn't attend to all tokens by
                content.
        """
        if not isinstance(backbone, PerViT):
            raise UserError(f'an attention prior needs a PerViT as backbone, got {type(backbone).__name__}')
        runs = backbone.out_indices[-1] + 1
        for i, entry in enumerate(self.entries):
            if not -runs <= entry.block < runs:
                raise UserError(f'block of priors[{i}] must be one of the blocks that run, from 0 to {runs - 1}, got '
                                f'{entry.block}')
            block = entry.block % runs
            if max(entry.heads) >= backbone.num_heads:
                raise UserError(f'heads of priors[{i}] must be below {backbone.num_heads}, got {entry.heads}')
            position = backbone.blocks[block].attn.position
            if entry.prior.kind == 'relative' and (position is None or position.frozen):
                raise UserError(f'priors[{i}] is relative and goes to Φp, and block {block} has no Φp with weights: '
                                'give an absolute prior, or a backbone with position_cfg')
            if entry.prior.kind == 'absolute':
                if isinstance(backbone, MAEPerViT):
                    raise UserError(f'priors[{i}] is absolute and goes to attention between all tokens, and MAEPerViT '
                                    'drops some: give a relative prior, or another backbone')
                check_content(backbone, block)
            self.entries[i] = replace(entry, block=block)

    def record(self, backbone: PerViT) -> AbstractContextManager[list[BlockMaps]]:
        """Context that records what the absolute priors need of each forward of a backbone; see :meth:`check`."""
        content = {entry.block for _, entry in self._of_kind('absolute')}
        return record_blocks(backbone, content=sorted(content)) if content else nullcontext([])

    def forward(self, backbone: PerViT, records: Sequence[BlockMaps] = ()) -> dict[str, Tensor]:
        """Losses of all priors.

        Args:
            backbone (PerViT): See :meth:`check`.
            records (Sequence[BlockMaps]): From :meth:`record`. Several forwards count alike. A forward on another grid
                than that of a prior doesn't count for it. Defaults to none, which is enough for relative priors.

        Returns:
            dict[str, Tensor]: ``position_prior_loss`` and ``attention_prior_loss``, as far as there are such priors.

        Raises:
            UserError: If no forward has the grid of an absolute prior.
        """
        losses = {}
        for name, kind, pull in (('position_prior_loss', 'relative', lambda i: self._of_position(i, backbone)),
                                 ('attention_prior_loss', 'absolute', lambda i: self._of_attention(i, records))):
            terms = [entry.weight * pull(i) for i, entry in self._of_kind(kind)]
            if terms:
                losses[name] = torch.stack(terms).sum()
        return losses

    def _of_kind(self, kind: str) -> list[tuple[int, _Entry]]:
        """Priors of a kind with their numbers."""
        return [(i, entry) for i, entry in enumerate(self.entries) if entry.prior.kind == kind]

    def _of_position(self, number: int, backbone: PerViT) -> Tensor:
        """KL(prior ‖ row-normalized Φp) of one relative prior, by the weights alone, on the grid of the prior."""
        entry = self.entries[number]
        log_position = backbone.blocks[entry.block].attn.position(entry.prior.hw_shape, backbone.position_proj)
        return divergence(getattr(self, f'target{number}'), log_position[list(entry.heads)])

    def _of_attention(self, number: int, records: Sequence[BlockMaps]) -> Tensor:
        """KL(prior ‖ column mean of Φa) of one absolute prior, mean over the forwards on its grid."""
        entry = self.entries[number]
        blocks = [record for record in records if record.index == entry.block]
        fitting = [record for record in blocks if record.hw_shape == entry.prior.hw_shape]
        if not fitting:
            raise UserError(f'priors[{number}] is for the grid {entry.prior.hw_shape}, and block {entry.block} ran on '
                            f'{sorted({record.hw_shape for record in blocks})}: make the prior for a grid of the '
                            'training')
        values, heads = [], list(entry.heads)
        for record in fitting:
            scores = record.scores(heads)
            if record.log_position is not None:
                scores = scores + record.log_position[heads]
            # The logarithm of a mean of weights that may be too small for float32.
            log_mean = scores.log_softmax(-1).logsumexp(-2) - math.log(scores.shape[-2])
            values.append(divergence(getattr(self, f'target{number}'), log_mean))
        return torch.stack(values).mean()


@HOOKS.register_module(name=['AttentionPriorHook', 'PerViTAttentionPriorHook'])
class AttentionPriorHook(Hook):
    """Add :class:`AttentionPriorLoss` to the losses of a training, supervised or not.

    The model is any that has a PerViT as ``backbone`` and a method ``loss`` that returns losses by name, as all
    classifiers, detectors, segmentors and pre-trainings of the OpenMMLab toolboxes do. Its checkpoints stay as they
    are. With absolute priors the backbone runs uncompiled.

    Args:
        priors (Sequence[dict]): See :class:`AttentionPriorLoss`.

    Raises:
        UserError: As :class:`AttentionPriorLoss`; before training, if the model has no such backbone, or the run has
            two such hooks.

    Examples:
        >>> custom_hooks = [dict(type='AttentionPriorHook', priors=[
        ...     dict(prior='foreground.npz', block=-1, heads=[0], loss_weight=0.1)])]
    """

    def __init__(self, priors: Sequence[dict]) -> None:
        self.prior_loss = AttentionPriorLoss(priors)

    def before_train(self, runner: Runner) -> None:
        """Check the backbone, and put the loss of the priors beside those of the model."""
        if sum(isinstance(hook, AttentionPriorHook) for hook in runner.hooks) > 1:
            raise UserError('custom_hooks must have one AttentionPriorHook, got more: give all priors to one, because '
                            'their losses have the same names')
        model = _inner(runner)
        backbone = getattr(model, 'backbone', None)
        self.prior_loss.check(backbone)
        self.prior_loss.to(next(backbone.parameters()).device)
        _take_off(model)  # what a training that broke off left there
        plain = model.loss

        def loss(*args, **kwargs) -> dict:
            with self.prior_loss.record(backbone) as records:
                losses = plain(*args, **kwargs)
            return {**losses, **self.prior_loss(backbone, records)}

        loss.of_priors = True
        model.loss = loss

    def after_train(self, runner: Runner) -> None:
        """Leave the model as it was."""
        _take_off(_inner(runner))


def _take_off(model: nn.Module) -> None:
    """Give a model its own loss back, if a hook's is there."""
    if getattr(vars(model).get('loss'), 'of_priors', False):
        del model.loss


def _inner(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
