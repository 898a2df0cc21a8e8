# A segmentor learns faster with a higher rate. Its iterations take longer, so there are fewer.
_base_ = 'adamw_fashion-scenes.py'

max_iters = 2000

optim_wrapper = dict(optimizer=dict(lr=1.5e-3))

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=100, end=max_iters),
]

train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
