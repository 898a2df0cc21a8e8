# Without Φc: attention by position alone.
_base_ = 'full.py'

model = dict(backbone=dict(content=False))
