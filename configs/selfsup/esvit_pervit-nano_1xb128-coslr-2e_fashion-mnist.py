# EsViT (Li et al. 2022) for PerViT-nano: half DINO, half a match of regions: each token predicts what the teacher says
# about the token that is most similar.
_base_ = '../_base_/selfsup/distillation_fashion-mnist.py'

model = dict(
    region_neck=_base_.neck,
    region_head=dict(type='RegionMatchingHead', out_channels=512),
    region_weight=0.5)
custom_hooks = [*_base_.custom_hooks, _base_.knn]
