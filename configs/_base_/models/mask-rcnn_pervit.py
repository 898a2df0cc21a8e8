# Mask R-CNN on PerViT-T: every level of the pyramid is made from the last map.
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'pervit_dense.py']

model = dict(
    # Two images per GPU are too few for the stem's BatchNorm, so it keeps ImageNet's statistics.
    backbone=dict(_delete_=True, norm_eval=True, **_base_.pervit),
    neck=dict(_delete_=True, **_base_.pyramid))
