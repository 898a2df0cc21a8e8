# PerViT-S fine-tuned at 384 px from its 224 px checkpoint: 8 x 64 images, 30 epochs.
_base_ = [
    '_base_/models/pervit.py',
    '_base_/datasets/imagenet_384.py',
    '_base_/schedules/adamw_finetune_30e.py',
    '_base_/default_runtime.py',
]

# If your weights are elsewhere: --cfg-options load_from=PATH
load_from = 'work_dirs/pervit_small/epoch_300.pth'

# The grid grows from 14 x 14 to 24 x 24 tokens. Φp is a function of distance and follows the grid, so nothing in the
# checkpoint is resized. Mixup and CutMix are off: in 30 epochs at a small rate the network should learn the new size
# from unmixed images.
model = dict(
    backbone=dict(arch='small', img_size=384, drop_path_rate=0.1),
    head=dict(in_channels=464),
    train_cfg=None)
