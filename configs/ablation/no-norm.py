# No instance norms in the position network.
_base_ = 'full.py'

model = dict(backbone=dict(position_cfg=dict(type='PerViTPeripheralPosition', norm=False)))
