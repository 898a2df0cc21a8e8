# Fashion-MNIST in five tasks of two classes, for PerViT-nano. tools/continual_study.py names the task of a run.
_base_ = [
    '../datasets/fashion-mnist.py',
    '../default_runtime.py',
]
custom_imports = dict(imports=['pervit_mm', 'pervit_mm.selfsup'], allow_failed_imports=False)

tasks = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
max_epochs = 2
train_pipeline = [
    dict(type='RandomCrop', crop_size=28, padding=2),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs', meta_keys=()),
]
train_dataloader = dict(
    batch_size=128,
    dataset=dict(
        _delete_=True,
        type='PerViTChosenClasses',
        classes=tasks[0],
        dataset=dict(type='FashionMNIST', data_root='data/fashion_mnist', split='train', pipeline=train_pipeline)))
val_evaluator = dict(_delete_=True, type='PerViTTaskAccuracy', tasks=tasks, seen=1)
test_evaluator = val_evaluator

model = dict(
    type='DistilledClassifier',
    tasks=tasks,
    backbone=dict(type='PerViT', arch='nano', img_size=28, in_channels=1),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=96,
        topk=(1, ),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.)))

# The old network runs in bfloat16 too. Weight decay would shrink the classes of other tasks, which have no gradient.
optim_wrapper = dict(
    type='PerViTBFloat16OptimWrapper',
    modules=('backbone', 'old'),
    optimizer=dict(type='AdamW', lr=1e-3, eps=1e-8, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='PerViTGroupedConstructor',
    paramwise_cfg=dict(
        norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0., custom_keys=dict(head=dict(decay_mult=0.))))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=0.25, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0.25, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
auto_scale_lr = dict(base_batch_size=128)
