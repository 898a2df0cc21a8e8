"""All measures of a model on some images, in one pass that holds one block at a time."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..models import PerViT
from ..utils.errors import UserError
from .attention import attention_distance, attention_entropy, ring_edges, ring_shares, uniform_distance, uniform_shares
from .capture import BlockRecord, capture, find_backbone
from .cka import CKAMatrix, u_centered_gram
from .impact import position_impact
from .localization import token_localization
from .norms import skip_branch_ratio
from .offsets import aligned_map
from .receptive_field import effective_receptive_field
from .recorders import find_recorders, is_a
from .rollout import attention_rollout, rollout_map
from .uniformity import token_uniformity

#: Values of one attention map of a batch, at most; gives the batch size. 2^25 of float32 take 134 MB.
MAP_VALUES = 2**25
#: Images of a batch at most, and at least, where unbiased CKA needs four.
MOST_IMAGES, LEAST_IMAGES = 16, 4
#: Images whose receptive field is averaged, as RepLKNet's authors do.
ERF_IMAGES = 50


@dataclass
class Study:
    """What :func:`study_model` measured. Lists have one entry for each block, dicts one for each of Φa, Φc, Φp.

    Attributes:
        images (int): Images that were seen.
        grids (list): Grid (H, W) of each block, in tokens.
        heads (list): Heads of each block.
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

    def uniform_distances(self) -> list[float]:
        """Distance of uniform attention in each block, in tokens."""
        return [uniform_distance(grid) for grid in self.grids]

    def uniform_rings(self) -> list[Tensor]:
        """Ring shares of uniform attention in each block."""
        return [uniform_shares(grid, edges) for grid, edges in zip(self.grids, self.edges)]


def default_blocks(blocks: int) -> tuple[int, ...]:
    """Three blocks to show: of twelve those that the paper shows (layers 3, 4 and 8), or else in like places."""
    if blocks == 12:
        return 2, 3, 7
    return tuple(sorted({blocks // 6, blocks // 2, max(blocks - 2, 0)}))


def study_model(model: nn.Module, images: Tensor, shown: int = 4, shown_blocks: Sequence[int] | None = None,
                edges: Sequence[float] | None = None, progress: Callable[[], Any] = lambda: None) -> Study:
    """Measure a model on images.

    Args:
        model (nn.Module): A model that :func:`capture` supports, in eval mode.
        images (Tensor): ``(B, C, h, w)``, normalized.
        shown (int): The first so many images get maps and rollout. Defaults to 4.
        shown_blocks (Sequence[int], optional): Blocks whose maps are kept. Defaults to None, :func:`default_blocks`.
        edges (Sequence[float], optional): Edges of the rings in tokens, for all blocks. Defaults to None,
            :func:`ring_edges` of each grid.
        progress (Callable): Called after each step, :func:`count_steps` times in all. Defaults to nothing.

    Returns:
        Study: What was measured, on the CPU.

    Raises:
        UserError: If the model is in training mode, or one that :func:`capture` doesn't support, or ``shown``, a block
            or an edge is not allowed.
    """
    if model.training:
        raise UserError('model must be in eval mode, because dropout would change what it sees: call model.eval()')
    backbone = find_backbone(model)
    plan = _Plan(backbone, images, edges)
    study = Study(len(images), plan.grids, plan.heads, edges=plan.edges)
    plan.explain(study)
    if type(shown) is not int or shown < 1:
        raise UserError(f'shown (--shown) must be a positive number of images, got {shown!r}')
    chosen = default_blocks(study.blocks) if shown_blocks is None else tuple(shown_blocks)
    for block in chosen:
        if type(block) is not int or not 0 <= block < study.blocks:
            raise UserError(f'blocks (--blocks) must be numbers from 0 to {study.blocks - 1}, got {block!r}')
    sums: list[dict[str, Tensor]] = [{} for _ in range(study.blocks)]
    cka, last, kept = CKAMatrix(), [], []

    def see(block: BlockRecord, weight: float, wanted: int) -> tuple[Tensor | None, Tensor | None]:
        """Keep of a block what is small, and return its Gram matrix and mean attention."""
        _add(sums[block.index], plan.measure(block), weight)
        if block.index == study.blocks - 1:
            last.append(block.output.cpu())
        gram = u_centered_gram(block.output.flatten(1).cpu()) if plan.compares else None
        if block.attention is None or not wanted:
            return gram, None
        if block.index in chosen:
            _keep_maps(study.maps.setdefault(block.index, {}), block, wanted)
        return gram, block.attention[:wanted].mean(dim=1, keepdim=True).cpu()

    for start, batch in zip(plan.starts, plan.batches):
        wanted = max(0, shown - start)  # images of this batch that get pictures
        each = partial(see, weight=len(batch) / len(images), wanted=wanted)
        with torch.no_grad(), capture(backbone, attention=plan.attends, features=True, branches=plan.branches,
                                      each=each) as record:
            backbone(batch)
        if plan.compares:
            study.grams.append(torch.stack([gram for gram, _ in record]))
            cka.update_grams(study.grams[-1])
        if wanted and 'rollout' not in study.skipped:
            kept.append(rollout_map(attention_rollout([mean for _, mean in record])))
        progress()
    _unpack(study, sums)
    if plan.compares:
        study.cka = cka.result()
    if kept:
        study.rollout = torch.cat(kept).unflatten(1, study.grids[0])
    if 'localization' not in study.skipped:
        study.localization = token_localization(torch.cat(last), images.cpu(), study.grids[-1])
    progress()
    study.receptive_field = effective_receptive_field(backbone, images[:ERF_IMAGES]).cpu()
    progress()
    return study


def count_steps(model: nn.Module, images: Tensor) -> int:
    """How often :func:`study_model` calls ``progress``."""
    return len(_Plan(find_backbone(model), images, None).batches) + 2


def grids_of(model: nn.Module, images: Tensor) -> list[tuple[int, int]]:
    """Grid (H, W) of each block on images of this size, in tokens."""
    return _Plan(find_backbone(model), images[:1], None).grids


class _Plan:
    """What a model has to measure, found with one image, and the batches that fit into memory."""

    def __init__(self, backbone: nn.Module, images: Tensor, edges: Sequence[float] | None) -> None:
        recorders = find_recorders(backbone)
        self.attends = bool(recorders) and recorders[0].has_attention
        self.branches = self.attends and not any(is_a(recorder.block, 'SwinBlockV2') for recorder in recorders)
        self.pervit = isinstance(backbone, PerViT)
        self.name = type(backbone).__name__
        with torch.no_grad(), capture(backbone, attention=self.attends, features=True, each=self._shape) as record:
            backbone(images[:1])
        self.grids = [shape[0] for shape in record]
        self.heads = [shape[1] for shape in record]
        self.windows = any(shape[2] for shape in record)
        self.has_position = any(shape[3] for shape in record)
        self.edges = [ring_edges(grid) if edges is None else tuple(edges)
                      for grid in self.grids if self.attends]
        self.sides, self.compares = tuple(images.shape[2:]), len(images) >= LEAST_IMAGES
        largest = max(heads * (h * w)**2 for heads, (h, w) in zip(self.heads, self.grids)) if self.attends else 1
        size = max(LEAST_IMAGES, min(MOST_IMAGES, MAP_VALUES // largest))
        # No batch is smaller than `size`, so that the last one is not too small for CKA.
        self.batches = images.tensor_split(max(1, len(images) // size))
        sizes = [len(batch) for batch in self.batches]
        self.starts = [sum(sizes[:i]) for i in range(len(sizes))]

    @staticmethod
    def _shape(block: BlockRecord) -> tuple:
        heads = 0 if block.raw_attention is None else block.raw_attention.shape[1]
        windowed = block.window_tokens is not None or (
            block.log_position is not None and bool((block.log_position == float('-inf')).any()))
        return block.hw_shape, heads, windowed, block.has_position

    def explain(self, study: Study) -> None:
        """Write down what the model has none of, and why."""
        if not self.attends:
            study.skipped['attention'] = f'{self.name} is a convolutional network and has no attention.'
        elif not self.has_position:
            study.skipped['position'] = (
                'This PerViT has no Φp (position_cfg=None).' if self.pervit else
                f'{self.name} has no position attention that can be read from its weights.')
        if not self.branches:
            study.skipped['norms'] = (
                f'The branches of {self.name} are not recorded, so they are not compared with its skip connections.')
        if self.attends and len({*self.grids}) > 1:
            study.skipped['rollout'] = 'The grid shrinks between blocks, and rollout is not defined then.'
        elif not self.attends:
            study.skipped['rollout'] = study.skipped['attention']
        if not self.compares:
            study.skipped['cka'] = f'CKA needs at least {LEAST_IMAGES} images, and there are {study.images}.'
        h, w = self.grids[-1]
        if not self.compares or self.sides[0] % h or self.sides[1] % w:
            study.skipped['localization'] = study.skipped.get(
                'cka', f'The image of {self.sides[0]} x {self.sides[1]} pixels is no multiple of the {h} x {w} grid.')
        if (1, 1) in self.grids:
            study.skipped['uniformity'] = 'Some blocks have one token, which has no pair to be compared with.'
        if self.windows:
            study.skipped['windows'] = ('Some blocks attend within windows. Their maps are 0 between windows, and no '
                                        'distance is longer than a window.')

    def measure(self, block: BlockRecord) -> dict[str, Tensor]:
        """Means over the images of a batch, of everything that can be added up."""
        alone = block.output.shape[1] == 1  # the last maps of a ResNet on small images
        found = dict(uniformity=torch.tensor(torch.nan) if alone else token_uniformity(block.output).mean(0))
        if block.branches is not None:
            found['norms'] = torch.stack([skip_branch_ratio(*pair).mean(0) for pair in block.branches])
        if block.attention is None:
            return found
        edges = self.edges[block.index]
        for factor, values in block.maps().items():
            values = values if values.dim() == 4 else values[None]
            found[f'distance/{factor}'] = attention_distance(values, block.hw_shape).mean(0)
            found[f'rings/{factor}'] = ring_shares(values, block.hw_shape, edges).mean(0)
            if factor != 'content':
                found[f'aligned/{factor}'] = aligned_map(values, block.hw_shape).mean(0)
        found['entropy'] = attention_entropy(block.attention, block.hw_shape).mean(0)
        if block.has_position:
            for name, value in position_impact(block.log_position, block.scores).items():
                found[f'impact/{name}'] = value.nanmean(0)
        return found


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
