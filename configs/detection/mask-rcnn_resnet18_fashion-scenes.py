# Control: MMDetection's ResNet-18 with FPN, from scratch.
_base_ = [
    '../_base_/models/mask-rcnn_fashion-scenes.py',
    '../_base_/datasets/fashion-scenes_detection.py',
    '../_base_/schedules/adamw_fashion-scenes.py',
    '../_base_/fashion-scenes_mmdet.py',
]

model = dict(
    backbone=dict(type='ResNet', depth=18, num_stages=4, out_indices=(1, 2, 3), norm_cfg=dict(type='BN')),
    neck=dict(type='FPN', in_channels=[128, 256, 512], out_channels=64, num_outs=3))
