# Every block starts global, as the last one.
_base_ = 'full.py'

model = dict(backbone=dict(init_cfg=dict(type='PeripheralInit', scheme='global')))
