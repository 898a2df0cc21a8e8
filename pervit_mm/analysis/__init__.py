"""What the network sees: recording, and measures of attention and features, from a model and images alone."""
from .attention import (
    attention_distance,
    attention_entropy,
    normalize_attention,
    ring_edges,
    ring_of_heads,
    ring_shares,
    uniform_attention,
    uniform_distance,
    uniform_shares,
)
from .capture import BlockRecord, Record, capture, find_backbone
from .cka import CKAMatrix, UnbiasedCKA, cka_matrix, hsic, u_centered_gram
from .correspondences import best_buddies, distinct_colors, pca_colors, select_pairs, token_centers
from .cosegmentation import Cosegmentation, cosegment, elbow_clusters, fit_clusters
from .descriptors import dense_descriptors, log_bins, saliency
from .frequency import high_pass, low_pass
from .impact import position_impact
from .localization import token_localization
from .logit_cam import logit_cam
from .maximization import maximize, unit_activations
from .nonlocality import nonlocality, position_nonlocality
from .norms import skip_branch_ratio
from .offsets import aligned_map, coverage, offset_heads
from .plan import Plan
from .position_maps import draw_position_maps
from .position_shift import position_shares, position_shift
from .propagation import Protocol, fuse_features, labels_of_mask, mask_of_labels, propagate_labels, propagate_mask
from .receptive_field import area_ratios, effective_receptive_field
from .rollout import attention_rollout, rollout_map
from .study import Study, study_model
from .uniformity import token_uniformity

__all__ = [
    'BlockRecord', 'CKAMatrix', 'Cosegmentation', 'Plan', 'Protocol', 'Record', 'Study', 'UnbiasedCKA',
    'aligned_map', 'area_ratios', 'attention_distance', 'attention_entropy', 'attention_rollout', 'best_buddies',
    'capture', 'cka_matrix', 'cosegment', 'coverage', 'dense_descriptors', 'distinct_colors', 'draw_position_maps',
    'effective_receptive_field', 'elbow_clusters', 'find_backbone', 'fit_clusters', 'fuse_features', 'high_pass',
    'hsic', 'labels_of_mask', 'log_bins', 'logit_cam', 'low_pass', 'mask_of_labels', 'maximize', 'nonlocality',
    'normalize_attention', 'offset_heads', 'pca_colors', 'position_impact', 'position_nonlocality',
    'position_shares', 'position_shift', 'propagate_labels', 'propagate_mask', 'ring_edges', 'ring_of_heads',
    'ring_shares', 'rollout_map', 'saliency', 'select_pairs', 'skip_branch_ratio', 'study_model', 'token_centers',
    'token_localization', 'token_uniformity', 'u_centered_gram', 'uniform_attention', 'uniform_distance',
    'uniform_shares', 'unit_activations'
]
