# Leopart (Ziegler and Asano 2022) for PerViT-nano, without a label, on crops of 56 px of FashionScenes. It starts from
# iBOT's teacher, which learned from single items and attends to them. Train it first:
# python tools/train.py configs/selfsup/ibot_pervit-nano_1xb128-coslr-2e_fashion-mnist.py
_base_ = '../_base_/selfsup/leopart.py'

checkpoint = 'work_dirs/ibot_pervit-nano_1xb128-coslr-2e_fashion-mnist/epoch_2.pth'

# Fashion-MNIST's mean and deviation, for its weights.
data_preprocessor = dict(type='SelfSupDataPreprocessor', mean=[72.94] * 3, std=[90.02] * 3, to_rgb=True)
crops = dict(_base_.crops, global_size=56, local_size=28)
train_pipeline = [
    dict(type='PerViTLoadImageFromFile'),
    # Items have 28 to 56 px in scenes of 128 to 224 px. So they keep about their size in views of 56 px.
    dict(type='RandomCrop', crop_size=84),
    crops,
    _base_.pack,
]
train_dataloader = dict(dataset=dict(
    type='CustomDataset', data_root='data/fashion_scenes', data_prefix='train', with_label=False,
    pipeline=train_pipeline))

model = dict(
    backbone=dict(
        arch='nano', img_size=28,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='teacher.module.backbone.')),
    neck=dict(in_channels=96, hid_channels=256, bottleneck_channels=64),
    head=dict(in_channels=64),
    # With 0.9995, four fifths of the teacher would still be the start after these 744 iterations.
    momentum=0.99)

max_epochs = 8
optim_wrapper = dict(
    _delete_=True,
    type='PerViTBFloat16OptimWrapper',
    modules=('backbone', 'teacher.module.backbone'),
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.04),
    constructor='PerViTGroupedConstructor',
    paramwise_cfg=_base_.optim_wrapper.paramwise_cfg)
param_scheduler = [dict(one, end=max_epochs) for one in _base_.param_scheduler]
train_cfg = dict(max_epochs=max_epochs)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(max_keep_ckpts=1))
auto_scale_lr = dict(base_batch_size=32)
