# Without the conditional position encoding.
_base_ = 'full_clutter.py'

model = dict(backbone=dict(cpe=False))
