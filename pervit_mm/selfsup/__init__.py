"""Pre-training without labels; ``custom_imports=['pervit_mm', 'pervit_mm.selfsup']`` registers it. Needs MMPretrain."""
from .attention_distillation import MapDistillation, PositionDistillation
from .attention_prior import AttentionPriorHook, AttentionPriorLoss
from .chosen_classes import PerViTChosenClasses
from .continual import DistilledClassifier
from .correspondence import FineCorrespondence
from .corruption import GroupCorruption
from .decoders import MAETokenDecoder, PixelShuffleDecoder, PromptTokenDecoder, TokenDecoder
from .distillation import SelfDistillation
from .distillation_hook import DistillationHook
from .few_labels import PerViTFewLabels
from .heads import (
    ClusterHead,
    ContrastHead,
    CorrespondenceHead,
    DistillationHead,
    RegionMatchingHead,
    TokenDistillationHead,
)
from .hidden_pixels import HiddenPixelError, hidden_pixel_error
from .leopart import Leopart
from .mae_backbone import MAEPerViT
from .mask_token import MaskTokenPerViT
from .milan import PerViTCLIPTargetGenerator, PerViTMILAN, PerViTTargetGenerator
from .prior_files import (
    AttentionPrior,
    center_prior,
    foreground_prior,
    gaussian_prior,
    read_prior,
    ring_prior,
    write_prior,
)
from .projector import DistillationNeck
from .sit import SiT
from .task_accuracy import PerViTTaskAccuracy, average_accuracy, forgetting
from .teacher import EMATeacher
from .token_masks import AttentionMask, TokenBlockMask
from .transforms import GrayJitter, MultiCropWithBoxes

__all__ = [
    'AttentionMask', 'AttentionPrior', 'AttentionPriorHook', 'AttentionPriorLoss', 'ClusterHead', 'ContrastHead',
    'CorrespondenceHead', 'DistillationHead', 'DistillationHook', 'DistillationNeck', 'DistilledClassifier',
    'EMATeacher', 'FineCorrespondence', 'GrayJitter', 'GroupCorruption', 'HiddenPixelError', 'Leopart', 'MAEPerViT',
    'MAETokenDecoder', 'MapDistillation', 'MaskTokenPerViT', 'MultiCropWithBoxes', 'PerViTCLIPTargetGenerator',
    'PerViTChosenClasses', 'PerViTFewLabels', 'PerViTMILAN', 'PerViTTargetGenerator', 'PerViTTaskAccuracy',
    'PixelShuffleDecoder', 'PositionDistillation', 'PromptTokenDecoder', 'RegionMatchingHead', 'SelfDistillation',
    'SiT', 'TokenBlockMask', 'TokenDecoder', 'TokenDistillationHead', 'average_accuracy', 'center_prior',
    'foreground_prior', 'forgetting', 'gaussian_prior', 'hidden_pixel_error', 'read_prior', 'ring_prior',
    'write_prior'
]
