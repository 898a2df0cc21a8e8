# SiT (Atito et al. 2021) for PerViT-nano, without a label: corrupted images are restored, and found among others.
_base_ = '../_base_/selfsup/fashion-mnist.py'

flip = dict(type='RandomFlip', prob=0.5)
jitter = dict(type='GrayJitter', brightness=0.4, contrast=0.4)
train_pipeline = [
    dict(type='MultiCropWithBoxes', global_size=28, global_scale=(0.4, 1.0), global_transforms=[flip, jitter]),
    dict(type='PackInputs', meta_keys=()),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

model = dict(
    type='SiT',
    backbone=dict(type='PerViT', arch='nano', img_size=28, in_channels=1, out_type='raw', drop_path_rate=0.1),
    neck=dict(
        type='NonLinearNeck',
        in_channels=96,
        hid_channels=512,
        out_channels=128,
        num_layers=3,
        with_avg_pool=False,
        with_last_bn_affine=False,
        norm_cfg=dict(type='BN1d')),
    decoder=dict(type='TokenDecoder', in_channels=96, encoder_stride=4, out_channels=1),
    head=dict(type='ContrastHead', temperature=0.2),
    corruption=dict(type='GroupCorruption'),
    pixel_weight=5.,
    # With 0.996, a tenth of a run of three epochs would still be random weights.
    momentum=0.99)

max_epochs = 3
optim_wrapper = dict(modules=('backbone', 'teacher.module.backbone'), optimizer=dict(weight_decay=0.04))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=0.3, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=0.3, end=max_epochs, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingWeightDecay',
        eta_min=0.1,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='DistillationHook', clip_grad=3.0),
    dict(_base_.knn, interval=max_epochs, backbone='teacher.module.backbone'),
]
