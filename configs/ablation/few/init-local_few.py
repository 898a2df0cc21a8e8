# Every block starts local, as the first one.
_base_ = 'full_few.py'

model = dict(backbone=dict(init_cfg=dict(type='PeripheralInit', scheme='local')))
