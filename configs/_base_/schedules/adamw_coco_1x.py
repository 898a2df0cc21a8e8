# MMDetection's 12 epochs of 8 x 2 images, with AdamW and warm-up as for its Swin and ConvNeXt.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

optim_wrapper = dict(
    _delete_=True,
    type='AmpOptimWrapper',
    dtype='float16',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    # Each block has 0.8 x the rate of the one behind it: the stem 0.8^13 = 0.055 x that of the heads.
    constructor='PerViTLayerDecayConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.8, norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]

# MMEngine saves no random state: without this a resumed run leaves the path of an undisturbed one.
custom_hooks = [dict(type='PerViTRandomStateHook')]
