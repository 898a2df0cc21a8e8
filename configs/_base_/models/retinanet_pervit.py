# RetinaNet on PerViT-T: every level of the pyramid is made from the last map.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'pervit_dense.py']

model = dict(
    # Two images per GPU are too few for the stem's BatchNorm, so it keeps ImageNet's statistics.
    backbone=dict(_delete_=True, norm_eval=True, **_base_.pervit),
    # RetinaNet starts at stride 8. Strides 64 and 128 are the level of stride 32, subsampled.
    neck=dict(
        _delete_=True,
        type='PerViTFeaturePyramid',
        in_channels=280,
        out_channels=256,
        out_strides=(8, 16, 32),
        num_outs=5))
