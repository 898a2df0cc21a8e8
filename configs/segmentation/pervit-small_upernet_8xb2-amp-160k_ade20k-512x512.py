# UPerNet with PerViT-S on ADE20K: 8 x 2 crops of 512 px, 160,000 iterations.
_base_ = 'pervit-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint='work_dirs/pervit_small/epoch_300.pth')),
    neck=dict(in_channels=(320, 368, 464, 464)))
