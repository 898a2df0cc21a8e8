# Control: global attention in every block instead of windows.
_base_ = 'mask-rcnn_pervit-nano_fashion-scenes.py'

model = dict(backbone=dict(window_size=None))
