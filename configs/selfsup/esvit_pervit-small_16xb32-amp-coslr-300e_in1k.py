# EsViT for PerViT-S. Never run.
_base_ = 'esvit_pervit-tiny_16xb32-amp-coslr-300e_in1k.py'

model = dict(
    backbone=dict(arch='small'), neck=dict(in_channels=464), region_neck=dict(in_channels=464))
