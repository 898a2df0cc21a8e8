# Control: MMPretrain's VisionTransformer with the same data, schedule and token grid.
_base_ = '../few/vit_few.py'

model = dict(backbone=dict(patch_size=2))
