# Leopart (Ziegler and Asano 2022) by the authors' schedule: two large crops and four small ones of each image, which
# overlap and are not flipped. The neck learns ten times as fast as the backbone, which is pre-trained already. A config
# adds the data, the backbone and its checkpoint.
_base_ = '../default_runtime.py'
custom_imports = dict(imports=['pervit_mm', 'pervit_mm.selfsup'], allow_failed_imports=False)

colors = [
    # torchvision's jitter: with NumPy 2, that of mmcv 2.1 fails on every second hue.
    dict(
        type='RandomApply',
        transforms=[
            dict(type='NumpyToPIL', to_rgb=True),
            dict(type='torchvision/ColorJitter', brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2),
            dict(type='PILToNumpy', to_bgr=True),
        ],
        prob=0.8),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.2989)),
]
crops = dict(
    type='MultiCropWithBoxes',
    global_size=224,
    global_scale=(0.25, 1.0),
    local_size=96,
    local_scale=(0.05, 0.25),
    num_local=4,
    min_overlap=0.01,
    global_transforms=colors,
    local_transforms=colors)
pack = dict(type='PackInputs', algorithm_keys=('boxes', 'flipped'), meta_keys=())

train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True))
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None

model = dict(
    type='Leopart',
    backbone=dict(type='PerViT', out_type='raw', drop_path_rate=0.1),
    neck=dict(type='DistillationNeck', out_channels=300),
    head=dict(type='ClusterHead', out_channels=300),
    momentum=0.9995)

# `lr` is the backbone's. A custom key replaces the other rules for its parameters, so biases are named again.
lr_mult = 10.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='float16',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=1e-5, betas=(0.9, 0.999), weight_decay=0.04),
    constructor='PerViTGroupedConstructor',
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        bias_decay_mult=0.,
        flat_decay_mult=0.,
        custom_keys={
            'neck': dict(lr_mult=lr_mult),
            'neck.mlp.0.bias': dict(lr_mult=lr_mult, decay_mult=0.),
            'neck.mlp.2.bias': dict(lr_mult=lr_mult, decay_mult=0.),
            'neck.mlp.4.bias': dict(lr_mult=lr_mult, decay_mult=0.),
        }))

max_epochs = 50
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=True, begin=0, end=max_epochs, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingWeightDecay',
        eta_min=0.5,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
custom_hooks = [*_base_.custom_hooks, dict(type='DistillationHook')]
