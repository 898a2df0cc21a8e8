# PerViT-M fine-tuned at 384 px from its 224 px checkpoint: 8 x 64 images, 30 epochs.
_base_ = 'pervit_small_384px.py'

load_from = 'work_dirs/pervit_medium/epoch_300.pth'

model = dict(
    backbone=dict(arch='medium', drop_path_rate=0.2), head=dict(in_channels=684))
