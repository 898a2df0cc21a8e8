# A linear classifier on frozen features of DINO, with all labels. tools/analysis_tools/probe.py does the same faster.
_base_ = '../../pervit_nano_3e_fashion-mnist.py'

model = dict(
    backbone=dict(
        frozen_stages=4,
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/dino_pervit-nano_1xb128-coslr-2e_fashion-mnist/epoch_2.pth',
            prefix='teacher.module.backbone.')),
    head=dict(loss=dict(_delete_=True, type='CrossEntropyLoss')))
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=1., momentum=0.9, weight_decay=0.))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=10, by_epoch=True, begin=0, end=10)]
train_cfg = dict(max_epochs=10, val_interval=10)
