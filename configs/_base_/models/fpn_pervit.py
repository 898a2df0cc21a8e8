# Semantic FPN on PerViT-T. Every level of the pyramid is made from the last map. A config names the crop size and the
# number of classes.
_base_ = ['mmseg::_base_/models/fpn_r50.py', 'pervit_dense.py']

# Test images are padded to whole cells of the coarsest level. The padding is cut off the result.
data_preprocessor = dict(test_cfg=dict(size_divisor=32))

model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    # SyncBN, for the reason given in upernet_pervit.py.
    backbone=dict(
        _delete_=True, stem_cfg=dict(norm_cfg=dict(type='SyncBN')), **_base_.pervit),
    neck=dict(
        _delete_=True,
        type='PerViTFeaturePyramid',
        in_channels=280,
        out_channels=256,
        out_strides=(4, 8, 16, 32)))
