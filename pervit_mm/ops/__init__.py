"""Pure functions on tensors: no parameters, nothing but torch."""
from .attention import (
    pad_head_width,
    peripheral_attention,
    plain_attention,
    position_attention,
)
from .distance import expand_offsets, grid_step, offset_distances, pairwise_distances
from .position import PositionWeights, log_position_maps
from .query_position import without_autocast
from .window import attend_in_windows, crop_position, partition, split_axis, unpartition

__all__ = [
    'PositionWeights',
    'attend_in_windows',
    'crop_position',
    'expand_offsets',
    'grid_step',
    'log_position_maps',
    'offset_distances',
    'pad_head_width',
    'pairwise_distances',
    'partition',
    'peripheral_attention',
    'plain_attention',
    'position_attention',
    'split_axis',
    'unpartition',
    'without_autocast'
]
