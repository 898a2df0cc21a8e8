# Without Φp: attention by content alone.
_base_ = 'full_few.py'

model = dict(backbone=dict(position_cfg=None))
