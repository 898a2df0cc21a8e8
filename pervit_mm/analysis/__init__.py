"""What the network sees: recording, and measures of attention and features, from a model and images alone."""
from .attention import (
    attention_distance,
    attention_entropy,
    normalize_attention,
    ring_edges,
    ring_of_heads,
    ring_shares,
    uniform_distance,
    uniform_shares,
)
from .capture import BlockRecord, Record, capture, find_backbone
from .impact import position_impact
from .nonlocality import nonlocality, position_nonlocality
from .offsets import aligned_map, coverage, offset_heads
from .position_maps import draw_position_maps

__all__ = [
    'BlockRecord', 'Record', 'aligned_map', 'attention_distance', 'attention_entropy', 'capture', 'coverage',
    'draw_position_maps', 'find_backbone', 'nonlocality', 'normalize_attention', 'offset_heads', 'position_impact',
    'position_nonlocality', 'ring_edges', 'ring_of_heads', 'ring_shares', 'uniform_distance', 'uniform_shares'
]
