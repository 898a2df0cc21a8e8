# SiT for PerViT-S. Never run.
_base_ = 'sit_pervit-tiny_4xb64-amp-coslr-801e_in1k.py'

model = dict(
    backbone=dict(arch='small'), neck=dict(in_channels=464), decoder=dict(in_channels=464))
