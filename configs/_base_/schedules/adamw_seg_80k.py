# MMSegmentation's 80,000 iterations, with the AdamW, warm-up and linear decay of its Swin and ConvNeXt.
_base_ = ['mmseg::_base_/schedules/schedule_80k.py', 'adamw_layer_decay.py']

optim_wrapper = dict(_delete_=True, **_base_.layer_decay)

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0., by_epoch=False, begin=1500, end=80000),
]

default_hooks = dict(logger=dict(type='PerViTLoggerHook'), checkpoint=dict(type='PerViTCheckpointHook'))
