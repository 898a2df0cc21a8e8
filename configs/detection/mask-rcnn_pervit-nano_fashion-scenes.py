# Mask R-CNN with PerViT-nano on FashionScenes, from the published classifier.
_base_ = [
    '../_base_/models/mask-rcnn_fashion-scenes.py',
    '../_base_/datasets/fashion-scenes_detection.py',
    '../_base_/schedules/adamw_fashion-scenes.py',
    '../_base_/fashion-scenes_mmdet.py',
]

checkpoint = 'pervit_mm://pervit_nano_fashion-mnist_20261122-e237e9c3.pth'

# Unlike the COCO configs, this one has no norm_eval: the classifier's BatchNorm statistics are those of items on black.
# A batch of two scenes is small, but at the stem's resolution it gives each channel thousands of values.
model = dict(
    backbone=dict(
        type='PerViT', arch='nano', img_size=28, out_type='featmap', window_size='pretrain',
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')),
    neck=dict(type='PerViTFeaturePyramid', in_channels=96, out_channels=64, in_stride=4, out_strides=(8, 16, 32)))
