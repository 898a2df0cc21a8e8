# AttMask with hints (Kakogeorgiou et al. 2022) for PerViT-T by the authors' run of ViT-S: 4 x 60 images, 100 epochs.
# Never run.
_base_ = 'ibot_pervit-tiny_16xb64-amp-coslr-800e_in1k.py'

max_epochs = 100
train_dataloader = dict(batch_size=60)
warmup = 30 / max_epochs
model = dict(
    head=dict(warmup=warmup),
    token_head=dict(warmup=warmup),
    masking=dict(_delete_=True, type='AttentionMask', ratio=(0.1, 0.5), prob=0.5, show=0.1))
optim_wrapper = dict(optimizer=dict(lr=5e-4 * 240 / 256))
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
auto_scale_lr = dict(base_batch_size=240)
