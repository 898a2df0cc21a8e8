# Without Φp and without the conditional encoding.
_base_ = 'no-position_tokens-14.py'

model = dict(backbone=dict(cpe=False))
