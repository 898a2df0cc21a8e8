# PerViT-nano at 1.5 times its training size. tools/train.py fine-tunes it for 300 iterations, tools/test.py only
# evaluates it.
_base_ = 'pervit_nano_3e_fashion-mnist.py'

side = 42
train_pipeline = [
    dict(type='Resize', scale=side, interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs', meta_keys=()),
]
test_pipeline = [
    *_base_.test_pipeline[:-1],
    dict(type='Resize', scale=side, interpolation='bicubic'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline), batch_size=100)
test_dataloader = val_dataloader

# img_size stays 28: it names the grid that Φp was trained on. distance_scale='fixed' refers to that grid.
model = dict(backbone=dict(distance_scale='grid'))
load_from = 'pervit_mm://pervit_nano_fashion-mnist_20261122-e237e9c3.pth'

optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=False, begin=0, end=300)]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=300, val_interval=300)
default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=300))
log_processor = dict(by_epoch=False)
