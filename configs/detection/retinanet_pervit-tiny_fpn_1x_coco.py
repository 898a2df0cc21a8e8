# RetinaNet with PerViT-T on COCO: 8 x 2 images, 12 epochs.
_base_ = [
    '../_base_/models/retinanet_pervit.py',
    'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/schedules/adamw_coco_1x.py',
    '../_base_/runtime_mmdet.py',
]
