# FashionClutter: the item in the middle of others, 56 x 56 px, 14 x 14 tokens; 5 epochs of 12,000 images.
# `tools/prepare_fashion_clutter.py` draws it.
_base_ = '../full.py'

data_root = 'data/fashion_clutter'
test_pipeline = [
    dict(type='RandomGrayscale', prob=1.0, channel_weights=(2, 9, 5), color_format='bgr'),
    dict(type='Resize', scale=56, interpolation='area'),
    dict(type='PackInputs'),
]
data_preprocessor = dict(mean=[124.84], std=[38.93])
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(backbone=dict(img_size=56))

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=0.42, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0.42, end=5, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=5, val_interval=5)
