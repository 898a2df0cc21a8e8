"""Position attention Φp: its contract, the paper's network, variants, the frozen form and the cache."""
from .base import (
    DISTANCE_SCALES,
    BasePosition,
    DistanceProjection,
    LogPositions,
    PositionInit,
    check_position,
    fill_,
    make_log_positions,
)
from .cache import PositionCache, fitting_blocks
from .frozen import FrozenPosition, frozen_log_positions
from .peripheral import PerViTPeripheralPosition
from .variants import PerViTEuclideanPosition, PerViTRelativePositionBias

__all__ = [
    'DISTANCE_SCALES', 'BasePosition', 'DistanceProjection', 'FrozenPosition', 'LogPositions',
    'PerViTEuclideanPosition', 'PerViTPeripheralPosition', 'PerViTRelativePositionBias', 'PositionCache',
    'PositionInit', 'check_position', 'fill_', 'fitting_blocks', 'frozen_log_positions', 'make_log_positions'
]
