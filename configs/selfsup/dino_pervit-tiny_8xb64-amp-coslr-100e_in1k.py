# DINO (Caron et al. 2021) for PerViT-T by the authors' 100-epoch run: 8 x 64 images. Never run.
_base_ = '../_base_/selfsup/distillation_imagenet.py'

max_epochs = 100
optim_wrapper = dict(optimizer=dict(lr=5e-4 * 512 / 256))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=10, end=max_epochs, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingWeightDecay',
        eta_min=0.4,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=512)
