# Fine-tuning for 30 epochs, in batches of 512 images. The PerViT paper reports no such run. Rate, decay, epochs and
# warm-up are those that Swin uses to go from 224 to 384 px.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='float16',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=2e-5, eps=1e-8, betas=(0.9, 0.999), weight_decay=1e-8),
    clip_grad=None,
    constructor='PerViTGroupedConstructor',
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end_factor=1.0, by_epoch=True, begin=0, end=5,
         convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=2e-7, by_epoch=True, begin=5, end=30,
         convert_to_iter_based=True),
]

train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# Only --auto-scale-lr uses this, for other batches than 8 x 64 images.
auto_scale_lr = dict(base_batch_size=512)
