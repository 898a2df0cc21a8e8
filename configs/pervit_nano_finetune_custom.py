# Fine-tune the published PerViT-nano on a folder of small images of your own. It takes minutes on a CPU. What to edit:
#   1. the images: data/custom/train/<class>/*.jpg and data/custom/val/<class>/*.jpg,
#   2. `num_classes`: the number of class folders.
# Then: python tools/train.py configs/pervit_nano_finetune_custom.py
_base_ = [
    '_base_/models/pervit.py',
    '_base_/datasets/custom_folder_224.py',
    '_base_/default_runtime.py',
]

num_classes = 10
checkpoint = 'pervit_mm://pervit_nano_fashion-mnist_20261122-e237e9c3.pth'
size = 28

# Gray images of the size and the normalization that the checkpoint was trained with.
data_preprocessor = dict(num_classes=num_classes, mean=[72.94], std=[90.02], to_rgb=False)
load = dict(type='PerViTLoadImageFromFile', color_type='grayscale')
train_pipeline = [
    load,
    dict(
        type='RandomResizedCrop', scale=size, crop_ratio_range=(0.5, 1.0), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    load,
    dict(type='ResizeEdge', scale=size, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=size),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=32, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=100, num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(
    backbone=dict(
        arch='nano',
        img_size=28,
        in_channels=1,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')),
    head=dict(num_classes=num_classes, in_channels=96, topk=(1, )),
    train_cfg=None)

max_epochs = 30
optim_wrapper = dict(
    type='PerViTBFloat16OptimWrapper',
    modules=('backbone', ),
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='PerViTLayerDecayConstructor',
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0., layer_decay_rate=0.75))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=2, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=32)

# The best checkpoint on your validation images is kept.
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1', max_keep_ckpts=1))
