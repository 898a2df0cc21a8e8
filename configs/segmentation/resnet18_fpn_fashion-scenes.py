# Control: ResNet-18 with FPN, from scratch.
_base_ = [
    '../_base_/models/fpn_fashion-scenes.py',
    '../_base_/datasets/fashion-scenes_segmentation.py',
    '../_base_/schedules/adamw_fashion-scenes_segmentation.py',
    '../_base_/fashion-scenes_mmseg.py',
]

model = dict(
    backbone=dict(type='ResNet', depth=18, num_stages=4, out_indices=(0, 1, 2, 3), norm_cfg=dict(type='BN')),
    neck=dict(type='FPN', in_channels=[64, 128, 256, 512], out_channels=64, num_outs=4))
