# DINO for PerViT-S. Never run.
_base_ = 'dino_pervit-tiny_8xb64-amp-coslr-100e_in1k.py'

model = dict(backbone=dict(arch='small'), neck=dict(in_channels=464))
