# Without the conditional position encoding.
_base_ = 'full.py'

model = dict(backbone=dict(cpe=False))
