# The position network learns ten times as fast, and nothing decays its weights.
_base_ = 'full_few.py'

optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(position=dict(lr_mult=10., decay_mult=0.))))
