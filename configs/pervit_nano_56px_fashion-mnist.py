# PerViT-nano at twice its training size. See the config for 42 px.
_base_ = 'pervit_nano_42px_fashion-mnist.py'

train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='Resize', scale=56, interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs', meta_keys=()),
]))
test_pipeline = [
    *_base_.test_pipeline[:-2],
    dict(type='Resize', scale=56, interpolation='bicubic'),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
