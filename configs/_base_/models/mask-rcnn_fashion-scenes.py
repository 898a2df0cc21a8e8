# Mask R-CNN for items of 28 to 56 pixels, sized for two CPU cores. A config adds the backbone and the neck.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

model = dict(
    data_preprocessor=dict(mean=[72.94] * 3, std=[90.02] * 3),  # Fashion-MNIST's, for its weights
    backbone=dict(_delete_=True),
    neck=dict(_delete_=True),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[4], strides=[8, 16, 32])),  # anchors of 32, 64 and 128 pixels
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, featmap_strides=[8, 16, 32], finest_scale=32),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=10),
        mask_roi_extractor=dict(out_channels=64, featmap_strides=[8, 16, 32], finest_scale=32),
        mask_head=dict(in_channels=64, conv_out_channels=64, num_convs=2, num_classes=10)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=400, max_per_img=200),
        rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=400, max_per_img=200), rcnn=dict(max_per_img=30)))
