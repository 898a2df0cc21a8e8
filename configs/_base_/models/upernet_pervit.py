# UPerNet on PerViT-T. Each level of the pyramid is made from the last map of one stage. A config names the crop size
# and the number of classes.
_base_ = ['mmseg::_base_/models/upernet_swin.py', 'pervit_dense.py']

# Test images are padded to whole cells of the coarsest level. The padding is cut off the result.
data_preprocessor = dict(test_cfg=dict(size_divisor=32))

model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        _delete_=True,
        # The last block of each stage. Block i already outputs the width of block i + 1, see `in_channels` of the neck.
        out_indices=(1, 3, 9, 11),
        # The stem's BatchNorm trains over the crops of all GPUs, like the BatchNorm of the heads and of
        # MMSegmentation's own backbones. 16 crops of 512 px are enough for its statistics, and streets or rooms look
        # unlike ImageNet. On one GPU use norm_eval=True instead.
        stem_cfg=dict(norm_cfg=dict(type='SyncBN')),
        **_base_.pervit),
    neck=dict(
        type='PerViTFeaturePyramid',
        in_channels=(192, 224, 280, 280),
        out_channels=256,
        out_strides=(4, 8, 16, 32)),
    decode_head=dict(in_channels=[256, 256, 256, 256]),
    auxiliary_head=dict(in_channels=256))
