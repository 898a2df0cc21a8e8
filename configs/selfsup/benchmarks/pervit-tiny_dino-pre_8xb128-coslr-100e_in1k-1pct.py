# PerViT on 1 % of the labels of ImageNet-1k from DINO: 13 images of each class, drawn by a seed. Never run.
_base_ = 'pervit-tiny_simmim-pre_8xb256-coslr-100e_in1k.py'
custom_imports = dict(imports=['pervit_mm', 'pervit_mm.selfsup'], allow_failed_imports=False)

train_dataloader = dict(
    batch_size=128,
    dataset=dict(
        _delete_=True, type='PerViTFewLabels', shots=13, seed=0, dataset=_base_.train_dataloader.dataset))
model = dict(
    backbone=dict(
        init_cfg=dict(
            checkpoint='work_dirs/dino_pervit-tiny_8xb64-amp-coslr-100e_in1k/epoch_100.pth',
            prefix='teacher.module.backbone.')))
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(layer_decay_rate=0.75))
# An epoch has twelve iterations.
train_cfg = dict(val_interval=10)
default_hooks = dict(checkpoint=dict(interval=10))
auto_scale_lr = dict(base_batch_size=1024)
