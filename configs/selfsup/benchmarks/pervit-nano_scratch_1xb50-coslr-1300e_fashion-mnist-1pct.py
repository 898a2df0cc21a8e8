# Control: trains from scratch on 1 % of the labels, about as long as iBOT, MILAN and the fine-tuning take together.
_base_ = 'pervit-nano_scratch_1xb50-coslr-580e_fashion-mnist-1pct.py'

max_epochs = 1300
warm_up, cosine = _base_.param_scheduler
param_scheduler = [warm_up, dict(cosine, end=max_epochs)]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
