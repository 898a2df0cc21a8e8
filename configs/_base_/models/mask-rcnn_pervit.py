# Mask R-CNN on PerViT-T: every level of the pyramid is made from the last map.
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'pervit_dense.py']

model = dict(
    # Two images per GPU are too few for BatchNorm in the stem: it keeps ImageNet's statistics.
    backbone=dict(_delete_=True, norm_eval=True, **_base_.pervit),
    # Stride 64, for the RPN alone, is the coarsest level, subsampled.
    neck=dict(
        _delete_=True,
        type='PerViTFeaturePyramid',
        in_channels=280,
        out_channels=256,
        out_strides=(4, 8, 16, 32),
        num_outs=5))
