# iBOT (Zhou et al. 2022) for PerViT-nano: DINO, and the teacher's answers for tokens that the student doesn't see.
_base_ = '../_base_/selfsup/distillation_fashion-mnist.py'

model = dict(
    backbone=dict(type='MaskTokenPerViT'),
    token_head=dict(
        type='TokenDistillationHead', out_channels=512, warmup_teacher_temp=0.04, teacher_temp=0.07, warmup=0.3),
    masking=dict(type='TokenBlockMask', ratio=(0.1, 0.5), prob=0.5))
custom_hooks = [*_base_.custom_hooks, _base_.knn]
