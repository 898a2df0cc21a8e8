# Cascade Mask R-CNN with PerViT-M on COCO: 8 x 2 images, 36 epochs of multi-scale crops.
_base_ = 'cascade-mask-rcnn_pervit-tiny_fpn_ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        arch='medium',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint='work_dirs/pervit_medium/epoch_300.pth')),
    neck=dict(in_channels=684))
