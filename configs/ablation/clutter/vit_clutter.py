# Control: MMPretrain's VisionTransformer with the same data, schedule and token grid.
_base_ = 'full_clutter.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch=dict(embed_dims=80, num_layers=6, num_heads=4, feedforward_channels=320),
        img_size=56,
        patch_size=8,
        in_channels=1,
        with_cls_token=False,
        out_type='avg_featmap'),
    head=dict(in_channels=80),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.),
        dict(type='Constant', layer='LayerNorm', val=1., bias=0.),
    ])
