# PerViT-nano, from the published classifier, with Semantic FPN on FashionScenes.
_base_ = [
    '../_base_/models/fpn_fashion-scenes.py',
    '../_base_/datasets/fashion-scenes_segmentation.py',
    '../_base_/schedules/adamw_fashion-scenes_segmentation.py',
    '../_base_/fashion-scenes_mmseg.py',
]

checkpoint = 'pervit_mm://pervit_nano_fashion-mnist_20261122-e237e9c3.pth'

model = dict(
    backbone=dict(
        type='PerViT', arch='nano', img_size=28, out_type='featmap', window_size='pretrain',
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')),
    neck=dict(type='PerViTFeaturePyramid', in_channels=96, out_channels=64, in_stride=4, out_strides=(4, 8, 16, 32)))
