# Without Φp and without the conditional encoding.
_base_ = 'no-position_few.py'

model = dict(backbone=dict(cpe=False))
