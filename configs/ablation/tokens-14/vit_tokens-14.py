# Control: MMPretrain's VisionTransformer with the same data, schedule and token grid.
_base_ = '../vit.py'

model = dict(backbone=dict(patch_size=2))
