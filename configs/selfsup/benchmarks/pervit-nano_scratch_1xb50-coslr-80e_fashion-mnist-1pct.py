# Control: PerViT-nano from scratch on 1 % of the labels, 60 images of each class, drawn by a seed.
_base_ = [
    '../../_base_/datasets/fashion-mnist.py',
    '../../_base_/default_runtime.py',
]
custom_imports = dict(imports=['pervit_mm', 'pervit_mm.selfsup'], allow_failed_imports=False)

max_epochs = 80
train_pipeline = [
    dict(type='RandomCrop', crop_size=28, padding=2),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs', meta_keys=()),
]
train_dataloader = dict(
    batch_size=50,
    dataset=dict(
        _delete_=True,
        type='PerViTFewLabels',
        shots=60,
        seed=0,
        dataset=dict(type='FashionMNIST', data_root='data/fashion_mnist', split='train', pipeline=train_pipeline)))

model = dict(
    type='ImageClassifier',
    backbone=dict(type='PerViT', arch='nano', img_size=28, in_channels=1, drop_path_rate=0.1),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=96,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, ),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.)))

optim_wrapper = dict(
    type='PerViTBFloat16OptimWrapper',
    modules=('backbone', ),
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='PerViTGroupedConstructor',
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(interval=20, max_keep_ckpts=1), logger=dict(interval=12))
auto_scale_lr = dict(base_batch_size=50)
