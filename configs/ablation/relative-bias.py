# A learned bias for each offset and head in place of Φp, as in Swin.
_base_ = 'full.py'

model = dict(backbone=dict(position_cfg=dict(type='PerViTRelativePositionBias')))
