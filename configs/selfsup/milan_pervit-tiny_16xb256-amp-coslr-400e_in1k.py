# MILAN (Hou et al. 2022) for PerViT-T by the authors' schedule. The targets are those of a PerViT-T from DINO, which
# saw no labels; the authors take CLIP's. Never run.
_base_ = 'mae_pervit-tiny_8xb512-amp-coslr-800e_in1k.py'

train_dataloader = dict(batch_size=256)

model = dict(
    type='PerViTMILAN',
    neck=dict(
        _delete_=True,
        type='PromptTokenDecoder',
        in_channels=280,
        encoder_stride=16,
        target_channels=280,
        img_size=224),
    head=dict(
        _delete_=True,
        type='MIMHead',
        loss=dict(type='CosineSimilarityLoss', shift_factor=2., scale_factor=2.)),
    target_generator=dict(
        type='PerViTTargetGenerator',
        backbone=dict(type='PerViT', arch='tiny', img_size=224),
        checkpoint='work_dirs/dino_pervit-tiny_8xb64-amp-coslr-100e_in1k/epoch_100.pth'))

max_epochs = 400
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=40, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=True, begin=40, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs)
