# SiT (Atito et al. 2021) for PerViT-T. Batch, rate and epochs are those of the authors' command for STL-10: 4 x 72
# images, 501 epochs. Never run.
_base_ = '../_base_/selfsup/imagenet.py'

flip = dict(type='RandomFlip', prob=0.5)
colors = dict(
    type='RandomApply',
    transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)],
    prob=0.8)
train_pipeline = [
    dict(type='PerViTLoadImageFromFile'),
    dict(type='MultiCropWithBoxes', global_size=224, global_scale=(0.4, 1.0), global_transforms=[flip, colors]),
    dict(type='PackInputs', meta_keys=()),
]
train_dataloader = dict(batch_size=72, dataset=dict(pipeline=train_pipeline))

model = dict(
    type='SiT',
    backbone=dict(type='PerViT', arch='tiny', img_size=224, out_type='raw', drop_path_rate=0.1),
    neck=dict(
        type='NonLinearNeck',
        in_channels=280,
        hid_channels=4096,
        out_channels=256,
        num_layers=3,
        with_avg_pool=False,
        norm_cfg=dict(type='SyncBN')),
    decoder=dict(type='TokenDecoder', in_channels=280, encoder_stride=16, out_channels=3),
    head=dict(type='ContrastHead', temperature=0.2),
    corruption=dict(type='GroupCorruption'),
    pixel_loss=dict(type='PixelReconstructionLoss', criterion='L1', channel=3),
    pixel_weight=5.,
    momentum=0.996)

max_epochs = 501
optim_wrapper = dict(optimizer=dict(lr=1e-3 * 288 / 512), clip_grad=dict(max_norm=3.0))
custom_hooks = [*_base_.custom_hooks, dict(type='DistillationHook')]
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=10, end=max_epochs, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingWeightDecay',
        eta_min=0.1,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=288)
