# Leopart (Ziegler and Asano 2022) for PerViT-T by the authors' run on a tenth of ImageNet, here on all of it: 2 x 32
# images. Never run.
_base_ = '../_base_/selfsup/leopart.py'

checkpoint = 'work_dirs/dino_pervit-tiny_8xb64-amp-coslr-100e_in1k/epoch_100.pth'

data_preprocessor = dict(
    type='SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True)
blur = dict(type='GaussianBlur', magnitude_range=(0.1, 2.0), magnitude_std='inf', prob=0.5)
views = [*_base_.colors, blur]
train_pipeline = [
    dict(type='PerViTLoadImageFromFile'),
    dict(_base_.crops, backend='pillow', global_transforms=views, local_transforms=views),
    _base_.pack,
]
train_dataloader = dict(
    num_workers=10,
    prefetch_factor=4,
    pin_memory=True,
    dataset=dict(type='ImageNet', data_root='data/imagenet', split='train', pipeline=train_pipeline))

model = dict(
    backbone=dict(
        arch='tiny', img_size=224,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='teacher.module.backbone.')),
    neck=dict(in_channels=280))
default_hooks = dict(checkpoint=dict(interval=5, max_keep_ckpts=3))
auto_scale_lr = dict(base_batch_size=64)
