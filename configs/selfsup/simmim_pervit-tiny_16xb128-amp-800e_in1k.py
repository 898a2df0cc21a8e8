# SimMIM (Xie et al. 2022) for PerViT-T by the schedule of MMPretrain's Swin-B, at 224 px. 60 % of units of 32 px, four
# tokens each, are hidden. Never run.
_base_ = '../_base_/selfsup/imagenet.py'

train_pipeline = [
    dict(type='PerViTLoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.67, 1.0)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='SimMIMMaskGenerator', input_size=224, mask_patch_size=32, model_patch_size=16, mask_ratio=0.6),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

model = dict(
    type='SimMIM',
    backbone=dict(type='MaskTokenPerViT', arch='tiny', img_size=224, out_type='featmap'),
    neck=dict(type='PixelShuffleDecoder', in_channels=280, encoder_stride=16, out_channels=3),
    head=dict(
        type='SimMIMHead', patch_size=16, loss=dict(type='PixelReconstructionLoss', criterion='L1', channel=3)))

optim_wrapper = dict(
    optimizer=dict(lr=1e-4 * 2048 / 512, weight_decay=0.05), clip_grad=dict(max_norm=5.0))
max_epochs = 800
param_scheduler = [
    dict(type='LinearLR', start_factor=5e-7 / 1e-4, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type='MultiStepLR', milestones=[700], by_epoch=True, begin=10, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=2048)
