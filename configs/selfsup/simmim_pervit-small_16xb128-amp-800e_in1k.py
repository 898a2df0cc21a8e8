# SimMIM for PerViT-S. Never run.
_base_ = 'simmim_pervit-tiny_16xb128-amp-800e_in1k.py'

model = dict(backbone=dict(arch='small'), neck=dict(in_channels=464))
