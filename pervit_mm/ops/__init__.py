"""Pure functions on tensors: no parameters, nothing but torch, and Triton if somebody asks for it."""
from .attention import attend_by_position, pad_head_width, peripheral_attention, plain_attention
from .derivatives import is_transformed
from .distance import expand_offsets, grid_step, offset_distances, pairwise_distances
from .position import PositionWeights, log_positions
from .position_per_query_triton import use_fused_position
from .precision import autocast_layer_norm_in_float32, exact_dtype, without_autocast
from .tokens import place_tokens, take_pairs, take_tokens
from .window import (
    attend_in_padded_windows,
    attend_in_windows,
    crop_position,
    partition,
    place_in_windows,
    split_axis,
    spread_windows,
    unpartition,
)

__all__ = [
    'PositionWeights', 'attend_by_position', 'attend_in_padded_windows', 'attend_in_windows',
    'autocast_layer_norm_in_float32', 'crop_position', 'exact_dtype', 'expand_offsets', 'grid_step',
    'is_transformed', 'log_positions', 'offset_distances', 'pad_head_width', 'pairwise_distances', 'partition',
    'peripheral_attention', 'place_in_windows', 'place_tokens', 'plain_attention', 'split_axis', 'spread_windows',
    'take_pairs', 'take_tokens', 'unpartition', 'use_fused_position', 'without_autocast'
]
