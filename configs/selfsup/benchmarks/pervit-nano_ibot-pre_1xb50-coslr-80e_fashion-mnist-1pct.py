# PerViT-nano on 1 % of the labels, from iBOT.
_base_ = '../../_base_/selfsup/finetune_fashion-mnist-1pct.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/ibot_pervit-nano_1xb128-coslr-2e_fashion-mnist/epoch_2.pth',
            prefix='teacher.module.backbone.')))
