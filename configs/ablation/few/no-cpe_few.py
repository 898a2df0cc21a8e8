# Without the conditional position encoding.
_base_ = 'full_few.py'

model = dict(backbone=dict(cpe=False))
