# RetinaNet with PerViT-S on COCO: 8 x 2 images, 12 epochs.
_base_ = 'retinanet_pervit-tiny_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint='work_dirs/pervit_small/epoch_300.pth')),
    neck=dict(in_channels=464))
