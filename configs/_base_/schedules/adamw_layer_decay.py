# The optimizer that detectors and segmentors share. A schedule takes it as its `optim_wrapper`.
_base_ = '../reliable.py'

layer_decay = dict(
    type='AmpOptimWrapper',
    dtype='float16',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    # Each block has 0.8 times the rate of the next block. So the stem has 0.8^13 = 0.055 times the rate of the heads.
    constructor='PerViTLayerDecayConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.8, norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))
