# UPerNet with PerViT-S on Cityscapes: 8 x 2 crops of 512 x 1024 px, 80,000 iterations.
_base_ = 'pervit-tiny_upernet_8xb2-amp-80k_cityscapes-512x1024.py'

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint='work_dirs/pervit_small/epoch_300.pth')),
    neck=dict(in_channels=(320, 368, 464, 464)))
