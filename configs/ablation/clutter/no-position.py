# Without Φp: attention by content alone.
_base_ = 'full.py'

model = dict(backbone=dict(position_cfg=None))
