# The schedule counts iterations, so that one number sets the length of a run. Two processes, one on each of two CPU
# cores, do this many in less than 20 minutes.
max_iters = 2300

optim_wrapper = dict(
    type='PerViTBFloat16OptimWrapper',
    modules=('backbone', 'neck'),  # on the CPU, RoIAlign and NMS take only float32
    optimizer=dict(type='AdamW', lr=7e-4, eps=1e-8, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.),
    constructor='PerViTGroupedConstructor',
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=100, end=max_iters),
]

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
