# MILAN (Hou et al. 2022) for PerViT-nano, without a label: what iBOT's teacher says about all tokens is predicted from
# 12 of them, drawn by the attention that they receive. iBOT's teacher attends to items, SiT's to the ground. Train iBOT
# first: python tools/train.py configs/selfsup/ibot_pervit-nano_1xb128-coslr-2e_fashion-mnist.py
_base_ = 'mae_pervit-nano_1xb128-coslr-5e_fashion-mnist.py'

model = dict(
    type='PerViTMILAN',
    neck=dict(
        _delete_=True,
        type='PromptTokenDecoder',
        in_channels=96,
        encoder_stride=4,
        target_channels=96,
        img_size=28,
        embed_dims=48,
        num_layers=1,
        num_heads=2),
    head=dict(
        _delete_=True,
        type='MIMHead',
        loss=dict(type='CosineSimilarityLoss', shift_factor=2., scale_factor=2.)),
    target_generator=dict(
        type='PerViTTargetGenerator',
        backbone=dict(type='PerViT', arch='nano', img_size=28, in_channels=1),
        checkpoint='work_dirs/ibot_pervit-nano_1xb128-coslr-2e_fashion-mnist/epoch_2.pth'))

optim_wrapper = dict(modules=('backbone', 'neck', 'target_generator'))
