"""All measures of a model on some images, in one pass that holds one block at a time."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.errors import UserError
from .capture import BlockRecord, capture
from .cka import CKAMatrix, u_centered_gram
from .localization import token_localization
from .plan import Plan, check_blocks
from .receptive_field import effective_receptive_field
from .rollout import attention_rollout, rollout_map

#: Images whose receptive field is averaged, as RepLKNet's authors do.
ERF_IMAGES = 50


@dataclass
class Study:
    """What :func:`study_model` measured. Lists have one entry for each block, dicts one for each of Φa, Φc, Φp.

    Attributes:
        images (int): Images that were seen.
        grids (list): Grid (H, W) of each block, in tokens.
        heads (list): Heads of each block.
        uniform (dict): ``distance``, ``entropy`` and ``rings`` of attention that weighs all tokens of its window alike,
            for each block.
        distance (dict): ``(nH,)`` for each block, in tokens, mean over images; see :func:`attention_distance`.
        entropy (list): ``(nH,)`` of Φa in nats, mean over images.
        edges (list): Edges of the rings, in tokens.
        rings (dict): ``(nH, rings)`` for each block, mean over images.
        aligned (dict): ``(nH, 2H - 1, 2W - 1)`` for each block, corrected, mean over images; see :func:`aligned_map`.
        impact (dict): By name of :func:`position_impact`, ``(nH,)`` for each block, mean over images.
        norms (list): (attention, FFN) of :func:`skip_branch_ratio`, mean over images.
        uniformity (list): :func:`token_uniformity`, mean over images; NaN where there is one token.
        cka (Tensor): Blocks against blocks, ``(blocks, blocks)``.
        grams (list): For each batch, U-centered Gram matrices ``(blocks, b, b)``, to compare two models.
        localization (Tensor): ``(N, H, W)`` of the last block, see :func:`token_localization`.
        rollout (Tensor): ``(shown, H, W)``, see :func:`rollout_map`.
        receptive_field (Tensor): ``(h, w)``, see :func:`effective_receptive_field`.
        maps (dict): For each block of ``shown_blocks``, maps of some images by Φa, Φc, Φp: ``(shown, nH, N, N)``, or
            ``(nH, N, N)`` for Φp.
        skipped (dict[str, str]): Name of a measure to the reason why the model has none.
    """
    images: int
    grids: list[tuple[int, int]] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    uniform: dict[str, list] = field(default_factory=dict)
    distance: dict[str, list[Tensor]] = field(default_factory=dict)
    entropy: list[Tensor] = field(default_factory=list)
    edges: list[tuple[float, ...]] = field(default_factory=list)
    rings: dict[str, list[Tensor]] = field(default_factory=dict)
    aligned: dict[str, list[Tensor]] = field(default_factory=dict)
    impact: dict[str, list[Tensor]] = field(default_factory=dict)
    norms: list[tuple[float, float]] = field(default_factory=list)
    uniformity: list[float] = field(default_factory=list)
    cka: Tensor | None = None
    grams: list[Tensor] = field(default_factory=list)
    localization: Tensor | None = None
    rollout: Tensor | None = None
    receptive_field: Tensor | None = None
    maps: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.grids)


def study_model(model: nn.Module, images: Tensor, shown: int = 4, shown_blocks: Sequence[int] | None = None,
                edges: Sequence[float] | None = None, progress: Callable[[], Any] = lambda: None,
                plan: Plan | None = None) -> Study:
    """Measure a model on images.

    Args:
        model (nn.Module): A model that :func:`capture` supports, in eval mode.
        images (Tensor): ``(B, C, h, w)``, normalized.
        shown (int): The first so many images get maps and rollout. Defaults to 4.
        shown_blocks (Sequence[int], optional): Blocks whose maps are kept. Defaults to None, :func:`default_blocks`.
        edges (Sequence[float], optional): Edges of the rings in tokens, for all blocks. Defaults to None,
            :func:`ring_edges` of each grid.
        progress (Callable): Called after each step, ``plan.steps`` times in all. Defaults to nothing.
        plan (Plan, optional): Of the same model, images and edges. Defaults to None, which makes it.

    Returns:
        Study: What was measured, on the CPU.

    Raises:
        UserError: As :class:`Plan`, or if ``shown`` or a block is not allowed.
    """
    plan = plan or Plan(model, images, edges)
    if type(shown) is not int or shown < 1:
        raise UserError(f'shown (--shown) must be a positive number of images, got {shown!r}')
    study = Study(len(images), plan.grids, plan.heads, plan.uniform(), edges=plan.edges, skipped=plan.explain())
    chosen = check_blocks(shown_blocks, study.blocks)
    sums: list[dict[str, Tensor]] = [{} for _ in range(study.blocks)]
    cka, last, rollouts = CKAMatrix(), [], []

    def see(block: BlockRecord, weight: float, wanted: int) -> tuple[Tensor, Tensor | None]:
        """Keep of a block what is small, and return its features and mean attention."""
        _add(sums[block.index], plan.measure(block), weight)
        features = block.output.flatten(1).cpu() if plan.compares else block.output.new_empty(0)
        if block.index == study.blocks - 1:
            last.append(block.output.cpu())
        if block.attention is None or wanted < 1:
            return features, None
        if block.index in chosen:
            _keep_maps(study.maps.setdefault(block.index, {}), block, wanted)
        return features, block.attention[:wanted].mean(dim=1, keepdim=True).cpu()

    seen = 0
    for group in plan.groups(images):
        features: list[list[Tensor]] = [[] for _ in range(study.blocks)]
        for part in group.split(plan.at_once):
            each = partial(see, weight=len(part) / len(images), wanted=shown - seen)
            with torch.no_grad(), capture(plan.backbone, attention=plan.attends, features=True, branches=plan.branches,
                                          each=each) as record:
                plan.backbone(part)
            for kept, (output, _) in zip(features, record):
                kept.append(output)
            if shown > seen and 'rollout' not in study.skipped:
                rollouts.append(rollout_map(attention_rollout([mean for _, mean in record])))
            seen += len(part)
        if plan.compares:
            study.grams.append(torch.stack([u_centered_gram(torch.cat(kept)) for kept in features]))
            cka.update_grams(study.grams[-1])
        progress()
    _unpack(study, sums)
    if plan.compares:
        study.cka = cka.result()
    if rollouts:
        study.rollout = torch.cat(rollouts).unflatten(1, study.grids[0])
    if 'localization' not in study.skipped:
        study.localization = token_localization(torch.cat(last), images.cpu(), study.grids[-1])
    progress()
    study.receptive_field = effective_receptive_field(plan.backbone, images[:ERF_IMAGES]).cpu()
    progress()
    return study


def _add(sums: dict[str, Tensor], values: dict[str, Tensor], weight: float) -> None:
    for name, value in values.items():
        value = value.cpu().double() * weight
        sums[name] = sums[name] + value if name in sums else value


def _keep_maps(kept: dict[str, Tensor], block: BlockRecord, wanted: int) -> None:
    """Append the maps of the first ``wanted`` images; Φp is the same for all."""
    for factor, values in block.maps().items():
        if values.dim() == 3:
            kept[factor] = block.log_position.exp().cpu()  # as it is learned, not row-normalized
        else:
            values = values[:wanted].cpu()
            kept[factor] = torch.cat([kept[factor], values]) if factor in kept else values


def _unpack(study: Study, sums: list[dict[str, Tensor]]) -> None:
    """Means by block, from their names."""
    for block in sums:
        for name, value in block.items():
            kind, _, factor = name.partition('/')
            place = getattr(study, kind)
            if factor:
                place.setdefault(factor, []).append(value)
            elif kind == 'uniformity':
                place.append(value.item())
            else:
                place.append(tuple(value.tolist()) if kind == 'norms' else value)
