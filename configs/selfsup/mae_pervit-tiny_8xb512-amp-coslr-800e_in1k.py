# MAE (He et al. 2022) for PerViT-T by the authors' recipe: 49 of 196 tokens are seen, and pixels are normed by patch.
# Never run.
_base_ = '../_base_/selfsup/imagenet.py'

train_pipeline = [
    dict(type='PerViTLoadImageFromFile'),
    dict(
        type='RandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.2, 1.0),
        backend='pillow',
        interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs', meta_keys=()),
]
train_dataloader = dict(batch_size=512, dataset=dict(pipeline=train_pipeline))

model = dict(
    type='MAE',
    backbone=dict(type='MAEPerViT', arch='tiny', img_size=224, mask_ratio=0.75),
    neck=dict(type='MAETokenDecoder', in_channels=280, encoder_stride=16, out_channels=3, img_size=224),
    head=dict(
        type='MAEPretrainHead',
        patch_size=16,
        norm_pix=True,
        loss=dict(type='PixelReconstructionLoss', criterion='L2')))

optim_wrapper = dict(optimizer=dict(lr=1.5e-4 * 4096 / 256, betas=(0.9, 0.95), weight_decay=0.05))
max_epochs = 800
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=40, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=True, begin=40, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=4096)
