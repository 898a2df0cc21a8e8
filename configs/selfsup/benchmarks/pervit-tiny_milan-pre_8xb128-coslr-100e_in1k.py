# PerViT on all of ImageNet-1k from MILAN, by the schedule of MMPretrain's ViT-B from MILAN. Never run.
_base_ = 'pervit-tiny_mae-pre_8xb128-coslr-100e_in1k.py'

model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint='work_dirs/milan_pervit-tiny_16xb256-amp-coslr-400e_in1k/epoch_400.pth')))
optim_wrapper = dict(optimizer=dict(lr=4e-4))
