# A linear classifier on frozen features of DINO, by MMPretrain's schedule for MoCo v3. Never run.
_base_ = '../../pervit_tiny.py'

train_pipeline = [
    dict(type='PerViTLoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True), dataset=dict(pipeline=train_pipeline))
model = dict(
    backbone=dict(
        frozen_stages=4,
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/dino_pervit-tiny_8xb64-amp-coslr-100e_in1k/epoch_100.pth',
            prefix='teacher.module.backbone.')),
    head=dict(
        loss=dict(_delete_=True, type='CrossEntropyLoss'), init_cfg=dict(type='Normal', layer='Linear', std=0.01)),
    train_cfg=None)
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=12., momentum=0.9, weight_decay=0.))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=90, by_epoch=True, begin=0, end=90)]
train_cfg = dict(max_epochs=90)
auto_scale_lr = dict(base_batch_size=1024)
