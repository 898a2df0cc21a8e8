# PerViT-nano on Fashion-MNIST for 100 epochs, with a moving average of the weights over about two epochs: hours on one
# CPU core. The averages are what is validated and saved.
_base_ = 'pervit_nano_fashion-mnist.py'

max_epochs = 100
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=1, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='EMAHook', ema_type='PerViTExponentialMovingAverage', momentum=0.001, update_buffers=True),
]
