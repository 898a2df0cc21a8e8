# Control: the same network, data and schedule without position-based attention. It is published too.
_base_ = 'pervit_nano_fashion-mnist.py'

model = dict(backbone=dict(position_cfg=None))
