# EsViT (Li et al. 2022) for PerViT-T by the authors' run of Swin-T: 16 x 32 images, 300 epochs. Their prototypes have a
# learned gain, ours the gain 1. Never run.
_base_ = '../_base_/selfsup/distillation_imagenet.py'

max_epochs = 300
train_dataloader = dict(batch_size=32)
temperatures = dict(out_channels=65536, warmup_teacher_temp=0.04, teacher_temp=0.07, warmup=30 / max_epochs)
model = dict(
    head=temperatures,
    region_neck=_base_.neck,
    region_head=dict(type='RegionMatchingHead', **temperatures),
    region_weight=0.5)
optim_wrapper = dict(optimizer=dict(lr=5e-4 * 512 / 256))
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
auto_scale_lr = dict(base_batch_size=512)
