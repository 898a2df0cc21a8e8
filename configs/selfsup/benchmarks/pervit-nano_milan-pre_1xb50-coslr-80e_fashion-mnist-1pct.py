# PerViT-nano on 1 % of the labels, from MILAN.
_base_ = '../../_base_/selfsup/finetune_fashion-mnist-1pct.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/milan_pervit-nano_1xb128-coslr-5e_fashion-mnist/epoch_5.pth',
            prefix='backbone.')))
