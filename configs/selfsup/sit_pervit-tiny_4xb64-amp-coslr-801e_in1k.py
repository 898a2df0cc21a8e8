# SiT (Atito et al. 2021) for PerViT-T by the authors' command for ImageNet: 4 x 64 images, 801 epochs. Never run.
_base_ = '../_base_/selfsup/imagenet.py'

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
train_pipeline = [
    dict(type='PerViTLoadImageFromFile'),
    dict(
        type='MultiCropWithBoxes',
        global_size=224,
        global_scale=(0.2, 1.0),
        backend='pillow',
        global_transforms=[
            [flip, *colors, dict(blur, prob=1.0)],
            [flip, *colors, dict(blur, prob=0.1), dict(type='Solarize', thr=128, prob=0.2)],
        ]),
    dict(type='PackInputs', meta_keys=()),
]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))

model = dict(
    type='SiT',
    backbone=dict(type='PerViT', arch='tiny', img_size=224, out_type='raw', drop_path_rate=0.1),
    neck=dict(
        type='NonLinearNeck',
        in_channels=280,
        hid_channels=4096,
        out_channels=256,
        num_layers=3,
        with_avg_pool=False,
        with_last_bn_affine=False,
        norm_cfg=dict(type='SyncBN')),
    decoder=dict(type='TokenDecoder', in_channels=280, encoder_stride=16, out_channels=3),
    head=dict(type='ContrastHead', temperature=0.2),
    corruption=dict(type='GroupCorruption'),
    pixel_weight=1.,
    momentum=0.996)

max_epochs = 801
# DistillationHook clips gradients right before the step. A fused step would undo the loss scale only after that.
optim_wrapper = dict(optimizer=dict(lr=5e-4 * 256 / 256, foreach=True))
custom_hooks = [*_base_.custom_hooks, dict(type='DistillationHook', clip_grad=3.0)]
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=10, end=max_epochs, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingWeightDecay',
        eta_min=0.1,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=256)
