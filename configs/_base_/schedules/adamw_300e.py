# The authors' schedule: 300 epochs of 8 x 128 images.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='float16',
    loss_scale='dynamic',
    # 5e-4 for each 512 images of a batch.
    optimizer=dict(
        type='AdamW', lr=5e-4 * 1024 / 512, eps=1e-8, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=None,
    # Matrices and kernels have weight decay. Biases, norms and all other 1-D tensors have none.
    constructor='PerViTGroupedConstructor',
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))

# The authors set the rate once per epoch (timm), with W epochs of warm-up. In epoch e < W it is
# 1e-6 + e (1e-3 - 1e-6) / W. From epoch W on it is the cosine at e / 300, as if there had been no warm-up. MMEngine's
# usual pair (a cosine from `begin=W`) stretches the cosine over 300 - W epochs. It is up to 3 % off for W = 5, and 13 %
# for W = 20. So the cosine here runs from the start, and the warm-up multiplies it. The warm-up factor reaches 1 in
# epoch W (`end` is exclusive). From epoch W on this is the authors' curve to 1e-4. Before epoch W it is lower by what
# the cosine has fallen: 0.04 % at most for W = 5, and 1 % for W = 20. One difference is on purpose: the authors' script
# sets the rate of epoch e after epoch e, so their whole curve comes one epoch late. Ours does not.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end_factor=1.0, by_epoch=True, begin=0, end=6),
    dict(type='CosineAnnealingLR', T_max=300, eta_min=1e-5, by_epoch=True, begin=0, end=300),
]

train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# Only --auto-scale-lr uses this, for other batches than 8 x 128 images.
auto_scale_lr = dict(base_batch_size=1024)
