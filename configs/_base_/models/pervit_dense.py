# The backbone that detectors and segmentors share. A size variant names arch, drop path, checkpoint
# and the widths that the neck is fed with.
custom_imports = dict(imports=['pervit_mm'], allow_failed_imports=False)

pervit = dict(
    type='PerViT',
    arch='tiny',
    img_size=224,
    out_type='featmap',
    # Every block attends within windows of 14 x 14 tokens, the grid of 224 px: Φp is what was
    # trained, and cost grows with the area alone. The 3 x 3 convolution of each block runs over the
    # whole map, so that information crosses the windows' borders.
    window_size='pretrain',
    drop_path_rate=0.1,
    # What `python tools/train.py configs/pervit_tiny.py` writes. Whoever has weights elsewhere:
    # --cfg-options model.backbone.init_cfg.checkpoint=PATH
    init_cfg=dict(
        type='Pretrained', checkpoint='work_dirs/pervit_tiny/epoch_300.pth', prefix='backbone.'))

# Levels of a two-stage detector, all made from the last map. Stride 64, for the RPN alone, is the coarsest
# level, subsampled.
pyramid = dict(
    type='PerViTFeaturePyramid',
    in_channels=280,
    out_channels=256,
    out_strides=(4, 8, 16, 32),
    num_outs=5)
