# As pervit-nano_fpn_fashion-scenes.py, trained longer by one process: about 90 minutes of one core.
_base_ = 'pervit-nano_fpn_fashion-scenes.py'

# The shorter training is hardly better on its own scenes than on others. So it has learned too little, not too much.
max_iters = 9500
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=100, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
auto_scale_lr = dict(base_batch_size=8)  # one process
