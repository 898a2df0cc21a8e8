# SimMIM (Xie et al. 2022) for PerViT-nano, without a label: 60 % of the tokens are hidden, and their pixels predicted.
_base_ = '../_base_/selfsup/fashion-mnist.py'

train_pipeline = [
    dict(type='RandomCrop', crop_size=28, padding=2),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='SimMIMMaskGenerator', input_size=28, mask_patch_size=4, model_patch_size=4, mask_ratio=0.6),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

model = dict(
    type='SimMIM',
    backbone=dict(type='MaskTokenPerViT', arch='nano', img_size=28, in_channels=1, out_type='featmap'),
    neck=dict(type='PixelShuffleDecoder', in_channels=96, encoder_stride=4, out_channels=1),
    head=dict(
        type='SimMIMHead', patch_size=4, loss=dict(type='PixelReconstructionLoss', criterion='L1', channel=1)))

max_epochs = 5
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=0.5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0.5, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
# Masked images changed the statistics of BatchNorm; whole ones need their own.
custom_hooks = [*_base_.custom_hooks, dict(_base_.knn, interval=max_epochs, recalibrate=8192)]
