# What DINO, iBOT, AttMask and EsViT share on Fashion-MNIST: two global crops, four local ones, a teacher, and the
# values for a small network on small images.
_base_ = 'fashion-mnist.py'

flip = dict(type='RandomFlip', prob=0.5)
jitter = dict(type='GrayJitter', brightness=0.4, contrast=0.4)
train_pipeline = [
    dict(
        type='MultiCropWithBoxes',
        global_size=28,
        local_size=16,
        num_local=4,
        global_transforms=[flip, jitter],
        local_transforms=[flip, jitter]),
    dict(type='PackInputs', meta_keys=()),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

neck = dict(
    type='DistillationNeck', in_channels=96, out_channels=512, hid_channels=256, bottleneck_channels=64)
model = dict(
    type='SelfDistillation',
    backbone=dict(type='PerViT', arch='nano', img_size=28, in_channels=1, out_type='raw', drop_path_rate=0.1),
    neck=neck,
    head=dict(type='DistillationHead', out_channels=512),
    momentum=0.99)

max_epochs = 2
optim_wrapper = dict(modules=('backbone', 'teacher.module.backbone'), optimizer=dict(weight_decay=0.04))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=0.2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=0.2, end=max_epochs, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingWeightDecay',
        eta_min=0.4,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
knn = dict(interval=max_epochs, backbone='teacher.module.backbone')
custom_hooks = [*_base_.custom_hooks, dict(type='DistillationHook', clip_grad=3.0)]
