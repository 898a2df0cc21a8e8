# Control: trains from scratch on 1 % of the labels, about as long as iBOT, MILAN and the fine-tuning take together.
_base_ = 'pervit-nano_scratch_1xb50-coslr-580e_fashion-mnist-1pct.py'

max_epochs = 1300
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
