# The optimizer that detectors and segmentors share. A schedule takes it as its `optim_wrapper`.
layer_decay = dict(
    type='AmpOptimWrapper',
    dtype='float16',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    # Each block has 0.8 times the rate of the next block. So the stem has 0.8^13 = 0.055 times the rate of the heads.
    constructor='PerViTLayerDecayConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.8, norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))

# This runner resumes only from whole files, and refuses weights of another model.
runner_type = 'PerViTRunner'
# The first saves the random state, so that a resumed run repeats the undisturbed one. The second averages BatchNorm's
# statistics where SyncBN doesn't, as in several CPU processes. The third stops a run that computes NaN. The fourth ends
# a run in good order when the machine is taken away.
custom_hooks = [
    dict(type='PerViTRandomStateHook'),
    dict(type='PerViTSyncBuffersHook'),
    dict(type='PerViTNonFiniteHook'),
    dict(type='PerViTPreemptionHook')]
