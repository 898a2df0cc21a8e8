# Control: global attention in every block instead of windows.
_base_ = 'pervit-nano_fpn_fashion-scenes.py'

model = dict(backbone=dict(window_size=None))
