# Semantic FPN, sized for two CPU cores. A config adds the backbone and the neck.
_base_ = 'mmseg::_base_/models/fpn_r50.py'

norm_cfg = dict(type='BN', requires_grad=True)
# At the top too: MMEngine gives that one to the model when MMSegmentation's own test.py augments.
data_preprocessor = dict(
    mean=[72.94] * 3, std=[90.02] * 3, size=(128, 128),  # Fashion-MNIST's mean and std, for its weights
    # As in the training pipeline. Without it the levels don't line up at the right and lower border.
    test_cfg=dict(size_divisor=32))
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(_delete_=True),
    neck=dict(_delete_=True),
    decode_head=dict(
        in_channels=[64] * 4, channels=64, num_classes=11, norm_cfg=norm_cfg,
        # Four fifths of the pixels are background, which is learned first, but mIoU counts every class alike. With
        # class weights MMSegmentation 1.2.2 fails on label 255, so the padding in training is labeled ground.
        loss_decode=dict(class_weight=[0.3] + [1.] * 10)))
