# PerViT on all of ImageNet-1k from SimMIM, by the schedule of MMPretrain's Swin-B from SimMIM. Never run.
_base_ = '../../pervit_tiny.py'

model = dict(
    backbone=dict(
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/simmim_pervit-tiny_16xb128-amp-800e_in1k/epoch_800.pth',
            prefix='backbone.')))
# Each image once in an epoch: the supervised recipe's repeated augmentation is no part of this one.
train_dataloader = dict(batch_size=256, sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True))
optim_wrapper = dict(
    optimizer=dict(lr=5e-3, weight_decay=0.05),
    clip_grad=dict(_delete_=True, max_norm=5.0),
    constructor='PerViTLayerDecayConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.9))
param_scheduler = [
    dict(type='LinearLR', start_factor=2e-4, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=20, end=100, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=100)
auto_scale_lr = dict(base_batch_size=2048)
