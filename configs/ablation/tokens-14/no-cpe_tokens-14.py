# Without the conditional position encoding.
_base_ = 'full_tokens-14.py'

model = dict(backbone=dict(cpe=False))
