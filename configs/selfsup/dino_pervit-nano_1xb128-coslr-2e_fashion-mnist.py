# DINO (Caron et al. 2021) for PerViT-nano, without a label: students of small crops predict what the teacher says about
# large ones.
_base_ = '../_base_/selfsup/distillation_fashion-mnist.py'

custom_hooks = [*_base_.custom_hooks, _base_.knn]
