# Control: no pretrained weights.
_base_ = 'mask-rcnn_pervit-nano_fashion-scenes.py'

model = dict(backbone=dict(init_cfg=None))
