# MAE for PerViT-S. Never run.
_base_ = 'mae_pervit-tiny_8xb512-amp-coslr-800e_in1k.py'

model = dict(backbone=dict(arch='small'), neck=dict(in_channels=464))
