# As mask-rcnn_pervit-nano_fashion-scenes.py, from a pre-training without labels in place of the classifier: the teacher
# of SiT.
_base_ = 'mask-rcnn_pervit-nano_fashion-scenes.py'

checkpoint = 'pervit_mm://sit_pervit-nano_1xb128-coslr-3e_fashion-mnist_20261129-c718714e.pth'

model = dict(backbone=dict(init_cfg=dict(checkpoint=checkpoint, prefix='teacher.module.backbone.')))
