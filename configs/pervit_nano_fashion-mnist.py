# The published PerViT-nano on Fashion-MNIST: 40 epochs. They take an hour and a half on one CPU core while another core
# is busy.
_base_ = 'pervit_nano_3e_fashion-mnist.py'

max_epochs = 40
train_pipeline = [
    dict(type='RandomCrop', crop_size=28, padding=2),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs', meta_keys=()),
]
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=train_pipeline))

# The head and the loss stay in float32.
optim_wrapper = dict(type='PerViTBFloat16OptimWrapper', modules=('backbone', ))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=1, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=128)
