# The same for PerViT-S. Never run.
_base_ = 'pervit-tiny_milan-pre_8xb128-coslr-100e_in1k.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='work_dirs/milan_pervit-small_16xb256-amp-coslr-400e_in1k/epoch_400.pth')),
    head=dict(in_channels=464))
