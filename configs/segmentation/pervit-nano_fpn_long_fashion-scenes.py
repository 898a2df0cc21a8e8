# As pervit-nano_fpn_fashion-scenes.py, trained longer by one process: about 90 minutes of one core.
_base_ = 'pervit-nano_fpn_fashion-scenes.py'

# On training scenes the shorter training is hardly better than on others, so it has learned too little. Its windows of
# 28 px see parts of items, which have up to 56 px. Crops that are nearly all ground are drawn again.
max_iters = 7000
train_dataloader = dict(dataset=dict(pipeline=[
    *_base_.train_pipeline[:3], dict(type='RandomCrop', crop_size=_base_.crop_size, cat_max_ratio=0.75),
    *_base_.train_pipeline[4:]]))
model = dict(backbone=dict(window_size=14))

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=100, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
auto_scale_lr = dict(base_batch_size=8)  # one process
