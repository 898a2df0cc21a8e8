# A short schedule that two CPU cores finish in minutes. All networks that are compared use it.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, eps=1e-8, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=None,
    constructor='PerViTGroupedConstructor',
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))

# The rate changes by iteration. The warm-up takes a quarter of an epoch.
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=True,
        begin=0,
        end=0.25,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=0.25,
        end=3,
        convert_to_iter_based=True),
]

train_cfg = dict(by_epoch=True, max_epochs=3, val_interval=1)
val_cfg = dict()
test_cfg = dict()

auto_scale_lr = dict(base_batch_size=64)
