# Control: MMPretrain's own VisionTransformer with the same data, schedule, token grid (7 x 7), number of blocks and
# number of heads. PerViT-nano's width grows from 48 to 96, this network has one width. 80 is the width of half of
# PerViT-nano's blocks and gives the nearest number of parameters (0.47 M against 0.49 M). The pooling and the head are
# the same too: the mean over the tokens, then one linear layer.
_base_ = 'pervit_nano_3e_fashion-mnist.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch=dict(embed_dims=80, num_layers=6, num_heads=4, feedforward_channels=320),
        img_size=28,
        patch_size=4,
        in_channels=1,
        with_cls_token=False,
        out_type='avg_featmap'),
    head=dict(in_channels=80),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.),
        dict(type='Constant', layer='LayerNorm', val=1., bias=0.),
    ])
