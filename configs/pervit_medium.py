# PerViT-M on ImageNet-1k by the authors' recipe: 8 x 128 images, 300 epochs, 20 of them warm-up.
_base_ = 'pervit_tiny.py'

model = dict(
    backbone=dict(arch='medium', drop_path_rate=0.2), head=dict(in_channels=684))

optim_wrapper = dict(optimizer=dict(weight_decay=0.05))

# A list is replaced as a whole. The warm-up factor reaches 1 in epoch 20, so `end`, which is exclusive, is 21.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end_factor=1.0, by_epoch=True, begin=0, end=21),
    dict(type='CosineAnnealingLR', T_max=300, eta_min=1e-5, by_epoch=True, begin=0, end=300),
]

train_dataloader = dict(num_workers=10)
