# MAE (He et al. 2022) for PerViT-nano, without a label: the network sees 12 of 49 tokens, and a decoder the other
# pixels. Patches near black have no deviation to speak of, so pixels are not normed by patch.
_base_ = '../_base_/selfsup/fashion-mnist.py'

train_pipeline = [
    dict(type='RandomCrop', crop_size=28, padding=2),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs', meta_keys=()),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

model = dict(
    type='MAE',
    backbone=dict(type='MAEPerViT', arch='nano', img_size=28, in_channels=1, mask_ratio=0.75),
    neck=dict(
        type='MAETokenDecoder',
        in_channels=96,
        encoder_stride=4,
        out_channels=1,
        img_size=28,
        embed_dims=48,
        num_layers=1,
        num_heads=2),
    head=dict(
        type='MAEPretrainHead',
        patch_size=4,
        in_channels=1,
        norm_pix=False,
        loss=dict(type='PixelReconstructionLoss', criterion='L2')))

max_epochs = 5
optim_wrapper = dict(modules=('backbone', 'neck'), optimizer=dict(betas=(0.9, 0.95)))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=0.5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0.5, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
# Masked images changed the statistics of BatchNorm; whole ones need their own.
custom_hooks = [*_base_.custom_hooks, dict(_base_.knn, interval=max_epochs, recalibrate=8192)]
