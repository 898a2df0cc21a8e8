# PerViT-T on ImageNet-1k by the authors' recipe: 8 x 128 images, 300 epochs, 5 of them warm-up.
_base_ = [
    '_base_/models/pervit.py',
    '_base_/datasets/imagenet_224.py',
    '_base_/schedules/adamw_300e.py',
    '_base_/default_runtime.py',
]

model = dict(
    backbone=dict(arch='tiny', drop_path_rate=0.), head=dict(in_channels=280))

optim_wrapper = dict(optimizer=dict(weight_decay=0.03))

# The smallest network needs the most images a second, see docs/performance.md.
train_dataloader = dict(num_workers=14)
