# iBOT (Zhou et al. 2022) for PerViT-T by the authors' run of ViT-S: 16 x 64 images, 800 epochs. Their prototypes have a
# learned gain, ours the gain 1. Never run.
_base_ = '../_base_/selfsup/distillation_imagenet.py'

max_epochs = 800
crops = dict(_base_.crops, global_scale=(0.25, 1.0), local_scale=(0.05, 0.25), num_local=10)
train_pipeline = [dict(type='PerViTLoadImageFromFile'), crops, dict(type='PackInputs', meta_keys=())]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# The temperatures rise in the first 30 epochs.
temperatures = dict(out_channels=8192, warmup_teacher_temp=0.04, teacher_temp=0.07, warmup=30 / max_epochs)
model = dict(
    backbone=dict(type='MaskTokenPerViT'),
    neck=dict(out_channels=8192),
    head=temperatures,
    token_head=dict(type='TokenDistillationHead', **temperatures),
    masking=dict(type='TokenBlockMask', ratio=(0.1, 0.5), prob=0.5))
optim_wrapper = dict(optimizer=dict(lr=5e-4 * 1024 / 256))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=10, end=max_epochs, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingWeightDecay',
        eta_min=0.4,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=1024)
