# 10 % of noise on the constant position weights, so that hidden channels differ from the start.
_base_ = 'full_few.py'

model = dict(backbone=dict(init_cfg=dict(type='PeripheralInit', symmetry_noise=0.1)))
