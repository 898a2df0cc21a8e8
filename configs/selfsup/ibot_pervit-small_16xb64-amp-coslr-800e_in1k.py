# iBOT for PerViT-S. Never run.
_base_ = 'ibot_pervit-tiny_16xb64-amp-coslr-800e_in1k.py'

model = dict(backbone=dict(arch='small'), neck=dict(in_channels=464))
