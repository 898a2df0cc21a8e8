# ImageNet-1k at 384 px, for fine-tuning: only crops and flips, no RandAugment and no erasing.
_base_ = 'imagenet_224.py'

train_pipeline = [
    dict(type='PerViTLoadImageFromFile'),
    dict(
        type='RandomResizedCrop',
        scale=384,
        crop_ratio_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        backend='pillow',
        interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
# 438 = 384 * 256 / 224, so the center crop has the same share of the image as at 224 px.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='ResizeEdge', scale=438, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=384),
    dict(type='PackInputs'),
]

# Each image once per epoch: no repeated augmentation.
train_dataloader = dict(
    batch_size=64,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=64, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
