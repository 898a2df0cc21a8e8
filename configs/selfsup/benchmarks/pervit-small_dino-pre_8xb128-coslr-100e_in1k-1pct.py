# The same for PerViT-S. Never run.
_base_ = 'pervit-tiny_dino-pre_8xb128-coslr-100e_in1k-1pct.py'

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.1,
        init_cfg=dict(checkpoint='work_dirs/dino_pervit-small_8xb64-amp-coslr-100e_in1k/epoch_100.pth')),
    head=dict(in_channels=464))
