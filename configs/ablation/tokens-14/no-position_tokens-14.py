# Without Φp: attention by content alone.
_base_ = 'full_tokens-14.py'

model = dict(backbone=dict(position_cfg=None))
