# 1 x 1 convolutions in the position network: each key is seen alone.
_base_ = 'full.py'

model = dict(backbone=dict(position_cfg=dict(type='PerViTPeripheralPosition', kernel_size=1)))
