"""What there is to measure of a model, and how many images fit into memory at once."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..models import PerViT
from ..utils.errors import UserError
from .attention import (
    attention_distance,
    attention_entropy,
    check_edges,
    ring_edges,
    ring_shares,
    uniform_attention,
)
from .block_recorder import is_a
from .capture import BlockRecord, capture, find_backbone
from .impact import position_impact
from .norms import skip_branch_ratio
from .offsets import aligned_map
from .recorders import find_recorders
from .uniformity import token_uniformity

#: Values of one attention map of the images that run at once. 2^25 of float32 take 134 MB, and a dozen are needed.
MAP_VALUES = 2**25
#: The same for a single image, at most. Beyond that the measures would take tens of gigabytes.
MOST_MAP_VALUES = 2**28
#: Images that run at once, at most.
MOST_IMAGES = 16
#: Most entries of the Gram matrices of all tokens, for the localization; two stacks of float64 take 16 bytes for each.
MOST_PAIRS = 2**28
#: Images of a batch for CKA, the same for all models, so that two can be compared; and the least that CKA can do with.
CKA_IMAGES, LEAST_IMAGES = 16, 4


def default_blocks(blocks: int) -> tuple[int, ...]:
    """Three blocks to show: of twelve those that the paper shows (layers 3, 4 and 8), or else in like places."""
    if blocks == 12:
        return 2, 3, 7
    return tuple(sorted({blocks // 6, blocks // 2, max(blocks - 2, 0)}))


def check_blocks(blocks: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Blocks whose maps are shown, :func:`default_blocks` for None, or UserError if there is no such block."""
    for block in blocks or ():
        if type(block) is not int or not 0 <= block < count:
            raise UserError(f'blocks (--blocks) must be numbers from 0 to {count - 1}, got {block!r}')
    return default_blocks(count) if blocks is None else tuple(blocks)


class Plan:
    """What there is to measure of a model on images of one size, found with one image and without attention.

    Args:
        model (nn.Module): A model that :func:`capture` supports, in eval mode.
        images (Tensor): ``(B, C, h, w)``, normalized.
        edges (Sequence[float], optional): Edges of the rings in tokens, for all blocks. Defaults to None,
            :func:`ring_edges` of each grid.

    Attributes:
        grids (list): Grid (H, W) of each block, in tokens.
        steps (int): How often :func:`study_model` calls ``progress``.

    Raises:
        UserError: If the model is in training mode or one that :func:`capture` doesn't support, an edge is not allowed,
            or a map of attention would not fit into memory.
    """

    def __init__(self, model: nn.Module, images: Tensor, edges: Sequence[float] | None = None) -> None:
        if model.training:
            raise UserError('model must be in eval mode, because dropout would change what it sees: call model.eval()')
        self.backbone = find_backbone(model)
        recorders = find_recorders(self.backbone)
        self.attends = bool(recorders) and recorders[0].has_attention
        self.branches = self.attends and not any(is_a(recorder.block, 'SwinBlockV2') for recorder in recorders)
        with torch.no_grad(), capture(self.backbone, attention=False, features=True, qkv=self.attends,
                                      each=self._shape) as record:
            self.backbone(images[:1])
        self.grids, self.heads, self.window_ids = (list(part) for part in zip(*record))
        self.windows = any(ids is not None for ids in self.window_ids)
        positions = [getattr(getattr(recorder.block, 'attn', None), 'position', None) for recorder in recorders]
        self.has_position = any(position is not None for position in positions)
        self.has_content = all(getattr(recorder.block.attn, 'content', True) for recorder in recorders if self.attends)
        self.edges = [ring_edges(grid) if edges is None else check_edges(edges) for grid in self.grids if self.attends]
        self.sides, self.count = tuple(images.shape[2:]), len(images)
        self.compares = self.count >= LEAST_IMAGES
        largest = max((heads * (h * w)**2 for heads, (h, w) in zip(self.heads, self.grids)), default=0)
        if self.attends and largest > MOST_MAP_VALUES:
            raise UserError(f'images of {self.sides[0]} x {self.sides[1]} pixels give a grid of {max(self.grids)} '
                            f'tokens, and a map of their attention takes {4e-9 * largest:.1f} GB: give smaller images')
        self.at_once = max(1, min(MOST_IMAGES, MAP_VALUES // max(largest, 1) if self.attends else MOST_IMAGES))
        self.steps = len(self.groups(images)) + 2

    @staticmethod
    def _shape(block: BlockRecord) -> tuple:
        return block.hw_shape, 0 if block.value is None else block.value.shape[1], block.window_ids

    def groups(self, images: Tensor) -> list[Tensor]:
        """Batches for CKA. None is smaller than the others by more than one image."""
        return list(images.tensor_split(max(1, len(images) // CKA_IMAGES)))

    def uniform(self) -> dict[str, list]:
        """References for the figures, see :attr:`Study.uniform`."""
        found: dict[str, list] = dict(distance=[], entropy=[], rings=[])
        for grid, ids, edges in zip(self.grids, self.window_ids, self.edges):
            even = uniform_attention(grid, None if ids is None else ids.cpu())
            found['distance'].append(attention_distance(even, grid).item())
            found['entropy'].append(attention_entropy(even, grid).item())
            found['rings'].append(ring_shares(even, grid, edges))
        return found

    def explain(self) -> dict[str, str]:
        """What the model has none of, and why."""
        skipped, name = {}, type(self.backbone).__name__
        if not self.attends:
            skipped['attention'] = f'{name} is a convolutional network and has no attention.'
        elif not self.has_position:
            skipped['position'] = (
                'This PerViT has no Φp (position_cfg=None).' if isinstance(self.backbone, PerViT) else
                f'{name} has no position attention that can be read from its weights.')
        elif not self.has_content:
            skipped['content'] = 'This PerViT has no Φc (content=False), so Φa is Φp with rows that sum to one.'
        if not self.branches:
            skipped['norms'] = (
                f'The branches of {name} are not recorded, so they are not compared with its skip connections.')
        if self.attends and len({*self.grids}) > 1:
            skipped['rollout'] = 'The grid shrinks between blocks, and rollout is not defined then.'
        elif not self.attends:
            skipped['rollout'] = skipped['attention']
        if not self.compares:
            skipped['cka'] = f'CKA needs at least {LEAST_IMAGES} images, and there are {self.count}.'
        h, w = self.grids[-1]
        pairs = h * w * self.count**2
        if not self.compares or self.sides[0] % h or self.sides[1] % w:
            skipped['localization'] = skipped.get(
                'cka', f'The image of {self.sides[0]} x {self.sides[1]} pixels is no multiple of the {h} x {w} grid.')
        elif pairs > MOST_PAIRS:
            skipped['localization'] = (
                f'It compares all pairs of images at each of {h * w} tokens, and {self.count} images would take '
                f'{16e-9 * pairs:.0f} GB: give at most {int((MOST_PAIRS / h / w)**0.5)} images for it.')
        if (1, 1) in self.grids:
            skipped['uniformity'] = 'Some blocks have one token, which has no pair to be compared with.'
        if self.windows:
            skipped['windows'] = ('Some blocks attend within windows. Their maps are 0 between windows, and their '
                                  'uniform references are those of the windows. In aligned maps, keys outside the '
                                  'window count as 0.')
        return skipped

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
        if block.has_position and block.has_content:
            for name, value in position_impact(block.log_position, block.scores).items():
                found[f'impact/{name}'] = value.mean(0)  # NaN, where neither factor varies, stays
        return found
