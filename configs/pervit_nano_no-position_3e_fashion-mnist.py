# Control: the same network, data and schedule without position-based attention.
_base_ = 'pervit_nano_3e_fashion-mnist.py'

model = dict(backbone=dict(position_cfg=None))
