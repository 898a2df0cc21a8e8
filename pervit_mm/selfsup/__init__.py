"""Pre-training without labels; ``custom_imports=['pervit_mm', 'pervit_mm.selfsup']`` registers it. Needs MMPretrain."""
from .decoders import PixelShuffleDecoder
from .few_labels import PerViTFewLabels
from .mask_token import MaskTokenPerViT

__all__ = ['MaskTokenPerViT', 'PerViTFewLabels', 'PixelShuffleDecoder']
