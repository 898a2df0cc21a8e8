# As pervit-nano_fpn_fashion-scenes-320.py, with global attention in the third and the last block.
_base_ = 'pervit-nano_fpn_fashion-scenes-320.py'

model = dict(backbone=dict(global_attn_indexes=(2, 5)))
