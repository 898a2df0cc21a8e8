"""Losses between a student and its teacher."""
from .cluster_head import ClusterHead
from .contrast_head import ContrastHead
from .correspondence_head import CorrespondenceHead
from .distillation_head import DistillationHead
from .region_matching_head import RegionMatchingHead
from .token_distillation_head import TokenDistillationHead

__all__ = [
    'ClusterHead', 'ContrastHead', 'CorrespondenceHead', 'DistillationHead', 'RegionMatchingHead',
    'TokenDistillationHead'
]
