# Cascade Mask R-CNN with PerViT-T on COCO: 8 x 2 images, 36 epochs of multi-scale crops.
_base_ = [
    '../_base_/models/cascade-mask-rcnn_pervit.py',
    '../_base_/schedules/adamw_coco-instance_ms-crop-3x.py',
    '../_base_/runtime_mmdet.py',
]
