# PerViT-S on ImageNet-1k by the authors' recipe: 8 x 128 images, 300 epochs, 5 of them warm-up.
_base_ = 'pervit_tiny.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.1), head=dict(in_channels=464))

optim_wrapper = dict(optimizer=dict(weight_decay=0.05))

train_dataloader = dict(num_workers=10)
