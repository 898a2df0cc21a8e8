# Control: as many images more as a pre-training of five epochs sees, all from the 1 % with labels.
_base_ = 'pervit-nano_scratch_1xb50-coslr-80e_fashion-mnist-1pct.py'

max_epochs = 580
warm_up, cosine = _base_.param_scheduler
param_scheduler = [warm_up, dict(cosine, end=max_epochs)]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
