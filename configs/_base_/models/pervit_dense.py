# The backbone that detectors and segmentors share. The config of another size names arch, drop path rate, checkpoint
# and the input widths of the neck.
custom_imports = dict(imports=['pervit_mm'], allow_failed_imports=False)

pervit = dict(
    type='PerViT',
    arch='tiny',
    img_size=224,
    out_type='featmap',
    # Every block attends within windows of 14 x 14 tokens, the grid of 224 px. So Φp is the trained one, and the cost
    # grows linearly with the area. The 3 x 3 convolution of each block runs over the whole map and carries information
    # across the borders of the windows.
    window_size='pretrain',
    drop_path_rate=0.1,
    # `python tools/train.py configs/pervit_tiny.py` writes this file. If your weights are elsewhere:
    # --cfg-options model.backbone.init_cfg.checkpoint=PATH
    init_cfg=dict(
        type='Pretrained', checkpoint='work_dirs/pervit_tiny/epoch_300.pth', prefix='backbone.'))

# The levels of a two-stage detector, all made from the last map. Only the RPN uses stride 64: it is the level of stride
# 32, subsampled.
pyramid = dict(
    type='PerViTFeaturePyramid',
    in_channels=280,
    out_channels=256,
    out_strides=(4, 8, 16, 32),
    num_outs=5)
