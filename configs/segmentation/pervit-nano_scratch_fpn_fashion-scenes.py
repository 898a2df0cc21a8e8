# Control: no pretrained weights.
_base_ = 'pervit-nano_fpn_fashion-scenes.py'

model = dict(backbone=dict(init_cfg=None))
