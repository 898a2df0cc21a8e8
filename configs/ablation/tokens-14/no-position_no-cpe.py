# Without Φp and without the conditional encoding.
_base_ = 'no-position.py'

model = dict(backbone=dict(cpe=False))
