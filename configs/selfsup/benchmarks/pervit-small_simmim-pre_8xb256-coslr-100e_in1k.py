# The same for PerViT-S. Never run.
_base_ = 'pervit-tiny_simmim-pre_8xb256-coslr-100e_in1k.py'

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.1,
        init_cfg=dict(checkpoint='work_dirs/simmim_pervit-small_16xb128-amp-800e_in1k/epoch_800.pth')),
    head=dict(in_channels=464))
