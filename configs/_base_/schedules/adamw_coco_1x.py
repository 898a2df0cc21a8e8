# MMDetection's 12 epochs of 8 x 2 images, with the AdamW and the warm-up of its Swin and ConvNeXt.
_base_ = ['mmdet::_base_/schedules/schedule_1x.py', 'adamw_layer_decay.py']

optim_wrapper = dict(_delete_=True, **_base_.layer_decay)

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
