# Position weights start as other weights do, from a truncated normal.
_base_ = 'full.py'

model = dict(backbone=dict(init_cfg=dict(type='PeripheralInit', scheme='trunc_normal')))
