# PerViT as an ImageNet classifier. A config names the size, its final width and its drop path rate.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='PerViT', arch='tiny', img_size=224, drop_path_rate=0.),
    neck=None,
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=280,
        # 'original' gives the same targets as timm's Mixup: 1 - s + s/K for the right class and s/K for the others.
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.)),
    # There are no `probs`, so each batch gets one of the two at even odds. MMPretrain mixes a batch with a random
    # permutation of itself, the authors (timm) with its reverse. Both draw the ratio in the same way.
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
