# PerViT on all of ImageNet-1k from MAE, by the authors' schedule for ViT-B. Never run.
_base_ = '../../pervit_tiny.py'

model = dict(
    backbone=dict(
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mae_pervit-tiny_8xb512-amp-coslr-800e_in1k/epoch_800.pth',
            prefix='backbone.')))
# Each image once in an epoch: the supervised recipe's repeated augmentation is no part of this one.
train_dataloader = dict(batch_size=128, sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True))
optim_wrapper = dict(
    optimizer=dict(lr=2e-3, weight_decay=0.05),
    constructor='PerViTLayerDecayConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.65))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=5, end=100, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=100)
auto_scale_lr = dict(base_batch_size=1024)
