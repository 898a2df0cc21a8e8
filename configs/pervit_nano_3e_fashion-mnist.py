# PerViT-nano on Fashion-MNIST, for 3 epochs: minutes on two CPU cores.
_base_ = [
    '_base_/datasets/fashion-mnist.py',
    '_base_/schedules/adamw_fashion-mnist.py',
    '_base_/default_runtime.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(type='PerViT', arch='nano', img_size=28, in_channels=1),
    neck=None,
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=96,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, ),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.)))

default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
