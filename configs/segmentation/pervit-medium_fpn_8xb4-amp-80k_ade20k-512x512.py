# Semantic FPN with PerViT-M on ADE20K: 8 x 4 crops of 512 px, 80,000 iterations.
_base_ = 'pervit-tiny_fpn_8xb4-amp-80k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='medium',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint='work_dirs/pervit_medium/epoch_300.pth')),
    neck=dict(in_channels=684))
