# What DINO, iBOT, AttMask and EsViT share on ImageNet: DINO's crops and colors, and a schedule by epochs. A config sets
# `max_epochs` and its own values.
_base_ = 'imagenet.py'

flip = dict(type='RandomFlip', prob=0.5)
colors = [
    # torchvision's jitter: with NumPy 2, that of mmcv 2.1 fails on every second hue.
    dict(
        type='RandomApply',
        transforms=[
            dict(type='NumpyToPIL', to_rgb=True),
            dict(type='torchvision/ColorJitter', brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
            dict(type='PILToNumpy', to_bgr=True),
        ],
        prob=0.8),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.2989)),
]
blur = dict(type='GaussianBlur', magnitude_range=(0.1, 2.0), magnitude_std='inf')
crops = dict(
    type='MultiCropWithBoxes',
    global_size=224,
    global_scale=(0.4, 1.0),
    local_size=96,
    local_scale=(0.05, 0.4),
    num_local=8,
    backend='pillow',
    global_transforms=[
        [flip, *colors, dict(blur, prob=1.0)],
        [flip, *colors, dict(blur, prob=0.1), dict(type='Solarize', thr=128, prob=0.2)],
    ],
    local_transforms=[flip, *colors, dict(blur, prob=0.5)])
train_pipeline = [dict(type='PerViTLoadImageFromFile'), crops, dict(type='PackInputs', meta_keys=())]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))

neck = dict(type='DistillationNeck', in_channels=280)
model = dict(
    type='SelfDistillation',
    backbone=dict(type='PerViT', arch='tiny', img_size=224, out_type='raw', drop_path_rate=0.1),
    neck=neck,
    head=dict(type='DistillationHead', out_channels=65536),
    momentum=0.996)

# The hook clips gradients right before the step. A fused step would undo the loss scale only after that.
optim_wrapper = dict(optimizer=dict(foreach=True))
custom_hooks = [*_base_.custom_hooks, dict(type='DistillationHook', clip_grad=3.0, freeze_prototypes=1)]
