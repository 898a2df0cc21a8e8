# Without Φp: attention by content alone.
_base_ = 'full_clutter.py'

model = dict(backbone=dict(position_cfg=None))
