# PerViT-nano on 1 % of the labels from pre-trained weights. Earlier blocks learn more slowly.
_base_ = '../../selfsup/benchmarks/pervit-nano_scratch_1xb50-coslr-80e_fashion-mnist-1pct.py'

optim_wrapper = dict(
    constructor='PerViTLayerDecayConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.75))
