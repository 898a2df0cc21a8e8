# AttMask for PerViT-S. Never run.
_base_ = 'attmask_pervit-tiny_4xb60-amp-coslr-100e_in1k.py'

model = dict(backbone=dict(arch='small'), neck=dict(in_channels=464))
