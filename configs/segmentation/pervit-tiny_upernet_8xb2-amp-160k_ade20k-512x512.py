# UPerNet with PerViT-T on ADE20K: 8 x 2 crops of 512 px, 160,000 iterations.
_base_ = [
    '../_base_/models/upernet_pervit.py',
    'mmseg::_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_seg_160k.py',
    '../_base_/runtime_mmseg.py',
]

data_preprocessor = dict(size=_base_.crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150))

train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(base_batch_size=16)  # only --auto-scale-lr uses it
