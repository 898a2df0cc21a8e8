# Fine-tune PerViT-T on an image folder of your own. What to edit, from top to bottom:
#   1. the images: data/custom/train/<class>/*.jpg and data/custom/val/<class>/*.jpg,
#   2. `num_classes`: the number of class folders,
#   3. `checkpoint`: a PerViT-T trained on ImageNet.
# Then: python tools/train.py configs/pervit_tiny_finetune_custom.py
_base_ = [
    '_base_/models/pervit.py',
    '_base_/datasets/custom_folder_224.py',
    '_base_/schedules/adamw_finetune_30e.py',
    '_base_/default_runtime.py',
]

num_classes = 10
checkpoint = 'work_dirs/pervit_tiny/epoch_300.pth'

data_preprocessor = dict(num_classes=num_classes)

# The backbone takes the checkpoint's weights. The head is new, for your classes.
model = dict(
    backbone=dict(
        arch='tiny',
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')),
    head=dict(num_classes=num_classes, in_channels=280, topk=(1, )),
    train_cfg=None)

# 64 images per step on one GPU. A new head needs a larger rate than a change of image size does.
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05))
auto_scale_lr = dict(base_batch_size=64)

# The best checkpoint on your validation images is kept.
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1', max_keep_ckpts=1))
