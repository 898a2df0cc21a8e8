# The same for PerViT-S. Never run.
_base_ = 'pervit-tiny_mae-pre_8xb128-coslr-100e_in1k.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='work_dirs/mae_pervit-small_8xb512-amp-coslr-800e_in1k/epoch_800.pth')),
    head=dict(in_channels=464))
