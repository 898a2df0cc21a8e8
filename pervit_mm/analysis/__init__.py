"""What the network sees."""
from .nonlocality import nonlocality, position_nonlocality
from .position_maps import draw_position_maps

__all__ = ['draw_position_maps', 'nonlocality', 'position_nonlocality']
