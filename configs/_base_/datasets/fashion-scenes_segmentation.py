# For MMSegmentation: scenes of Fashion-MNIST items, 128 to 224 px a side, the ground and 10 classes.
# tools/prepare_fashion_scenes.py draws them.
data_root = 'data/fashion_scenes/'
metainfo = dict(
    classes=('background', 'T-shirt', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag',
             'Ankle boot'),
    palette=[[0, 0, 0], [230, 25, 75], [60, 180, 75], [255, 225, 25], [0, 130, 200], [245, 130, 48], [145, 30, 180],
             [70, 240, 240], [240, 50, 230], [210, 245, 60], [250, 190, 212]])

crop_size = (128, 128)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    # Pad to multiples of 32 px with the gray of the mean, as in testing. A network trained without padding gives a
    # wrong strip along the right and lower border. The padding is labeled ground and not 255: see the loss.
    dict(type='Pad', size_divisor=32, pad_val=dict(img=73, seg=0)),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
# Whole scenes at their own size.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
# For tools/test.py --tta: each scene and its mirror image. The first is not flipped: its labels are compared with.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ]),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    # It never ends, as a schedule by iterations needs it.
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(img_path='train', seg_map_path='labels/train'),
        img_suffix='.png',
        seg_map_suffix='.png',
        metainfo=metainfo,
        reduce_zero_label=False,
        pipeline=train_pipeline))

# One image at a time, because the scenes differ in size.
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(img_path='val', seg_map_path='labels/val'),
        img_suffix='.png',
        seg_map_suffix='.png',
        metainfo=metainfo,
        reduce_zero_label=False,
        test_mode=True,
        pipeline=test_pipeline))
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])

# Nothing is chosen by the test scenes. They are for results.
test_dataloader = dict(val_dataloader, dataset=dict(
    val_dataloader['dataset'], data_prefix=dict(img_path='test', seg_map_path='labels/test')))
test_evaluator = val_evaluator

auto_scale_lr = dict(base_batch_size=16)  # two processes
