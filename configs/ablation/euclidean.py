# Φp from one layer on the distances, which can only rise or fall with distance.
_base_ = 'full.py'

model = dict(backbone=dict(position_cfg=dict(type='PerViTEuclideanPosition')))
