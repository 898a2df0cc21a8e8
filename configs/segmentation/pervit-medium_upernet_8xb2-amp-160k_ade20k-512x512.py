# UPerNet with PerViT-M on ADE20K: 8 x 2 crops of 512 px, 160,000 iterations.
_base_ = 'pervit-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='medium',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint='work_dirs/pervit_medium/epoch_300.pth')),
    neck=dict(in_channels=(468, 540, 684, 684)))
