# MILAN for PerViT-S, with the targets of a PerViT-S. Never run.
_base_ = 'milan_pervit-tiny_16xb256-amp-coslr-400e_in1k.py'

model = dict(
    backbone=dict(arch='small'),
    neck=dict(in_channels=464, target_channels=464),
    target_generator=dict(
        backbone=dict(arch='small'),
        checkpoint='work_dirs/dino_pervit-small_8xb64-amp-coslr-100e_in1k/epoch_100.pth'))
