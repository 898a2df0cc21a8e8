# The fine-grained network of SFC (Hu et al. 2022) for PerViT-nano, without a label: tokens of two crops of a scene that
# show the same place are alike. Gray scenes, so that its features can be joined with those of networks that were
# pre-trained on Fashion-MNIST.
_base_ = '../_base_/selfsup/fashion-mnist.py'

train_pipeline = [
    dict(type='PerViTLoadImageFromFile', color_type='grayscale'),
    dict(type='MultiCropWithBoxes', global_size=56, global_scale=(0.1, 1.0)),
    dict(type='PackInputs', algorithm_keys=('boxes', 'flipped'), meta_keys=()),
]
train_dataloader = dict(
    batch_size=32,
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='data/fashion_scenes',
        data_prefix='train',
        with_label=False,
        pipeline=train_pipeline))

mlp = dict(
    type='NonLinearNeck',
    hid_channels=256,
    out_channels=64,
    with_bias=True,
    with_last_bias=True,
    with_last_bn=False,
    with_avg_pool=False,
    norm_cfg=dict(type='BN1d'))
model = dict(
    type='FineCorrespondence',
    backbone=dict(type='PerViT', arch='nano', img_size=56, in_channels=1, out_type='raw'),
    neck=dict(mlp, in_channels=96),
    head=dict(type='CorrespondenceHead', predictor=dict(mlp, in_channels=64)),
    momentum=0.99)

# The authors' rate is constant.
optim_wrapper = dict(
    modules=('backbone', 'teacher.module.backbone'),
    optimizer=dict(_delete_=True, type='Adam', lr=1e-3, weight_decay=0.))
train_cfg = dict(by_epoch=True, max_epochs=10)
auto_scale_lr = dict(base_batch_size=32)
custom_hooks = [*_base_.custom_hooks, dict(type='DistillationHook')]
