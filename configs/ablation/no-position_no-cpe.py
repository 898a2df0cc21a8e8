# Without both: nothing but the stem tells tokens apart by place.
_base_ = 'full.py'

model = dict(backbone=dict(position_cfg=None, cpe=False))
