# UPerNet with PerViT-T on Cityscapes: 8 x 2 crops of 512 x 1024 px, 80,000 iterations.
_base_ = [
    '../_base_/models/upernet_pervit.py',
    'mmseg::_base_/datasets/cityscapes.py',
    '../_base_/schedules/adamw_seg_80k.py',
    '../_base_/runtime_mmseg.py',
]

data_preprocessor = dict(size=_base_.crop_size)
model = dict(data_preprocessor=data_preprocessor)
auto_scale_lr = dict(base_batch_size=16)  # only --auto-scale-lr uses it
