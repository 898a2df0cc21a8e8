"""What features are worth, and what the model withstands: labels and a metric.

``custom_imports=['pervit_mm', 'pervit_mm.evaluation']`` registers the transforms of the robustness study.
"""
from .attacks import fgsm, pgd
from .baselines import (
    Baseline,
    baseline_records,
    baseline_table,
    center_features,
    few_shot_knn,
    measure_features,
    pixel_features,
)
from .corruptions import CORRUPTIONS, corrupt
from .features import Features, cached_features, collect_features
from .linear_probe import FewShotResult, ProbeResult, draw_shots, few_shot_probe, linear_probe, probe_blocks
from .neighbours import knn_accuracy
from .object_masks import MaskIoU, attention_mask_iou, mask_average_precision, mask_iou
from .occlusion import drop_patches, received_attention, shuffle_patches
from .overclustering import Overclustering, class_counts, overclustering_iou
from .recalibration import recalibrate
from .region_matching import RegionMatching, region_matching_accuracy
from .robustness import make_attacks, make_conditions, measure
from .robustness_report import robustness_table, summarize, write_csv
from .single_tokens import SingleTokens, single_token_accuracy
from .transforms import (
    PerViTCorruption,
    PerViTHighPass,
    PerViTLoadSaliency,
    PerViTLowPass,
    PerViTPatchDrop,
    PerViTPatchShuffle,
)
from .video_objects import follow_objects, pixel_tokens, region_similarity

__all__ = [
    'Baseline', 'CORRUPTIONS', 'Features', 'FewShotResult', 'MaskIoU', 'Overclustering', 'PerViTCorruption',
    'PerViTHighPass', 'PerViTLoadSaliency', 'PerViTLowPass', 'PerViTPatchDrop', 'PerViTPatchShuffle', 'ProbeResult',
    'RegionMatching', 'SingleTokens', 'attention_mask_iou', 'baseline_records', 'baseline_table', 'cached_features',
    'center_features', 'class_counts', 'collect_features', 'corrupt', 'draw_shots', 'drop_patches', 'few_shot_knn',
    'few_shot_probe', 'fgsm', 'follow_objects', 'knn_accuracy', 'linear_probe', 'make_attacks', 'make_conditions',
    'mask_average_precision', 'mask_iou', 'measure', 'measure_features', 'overclustering_iou', 'pgd',
    'pixel_features', 'pixel_tokens', 'probe_blocks', 'recalibrate', 'received_attention',
    'region_matching_accuracy', 'region_similarity', 'robustness_table', 'shuffle_patches', 'single_token_accuracy',
    'summarize', 'write_csv'
]
