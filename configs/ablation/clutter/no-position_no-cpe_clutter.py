# Without Φp and without the conditional encoding.
_base_ = 'no-position_clutter.py'

model = dict(backbone=dict(cpe=False))
