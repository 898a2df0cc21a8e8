# For MMDetection: scenes of Fashion-MNIST items, 128 to 224 px a side, 10 classes, with boxes and masks.
# tools/prepare_fashion_scenes.py draws them.
data_root = 'data/fashion_scenes/'
metainfo = dict(
    classes=('T-shirt', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot'),
    palette=[(230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
             (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212)])

# Nothing is resized: the scenes are small and vary in scale themselves. `Resize` is here because MMDetection needs a
# scale factor to bring boxes back to an image's own size. The factor is 1.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale_factor=1.0),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale_factor=1.0),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    # It never ends, as a schedule by iterations needs it.
    sampler=dict(type='InfiniteSampler', shuffle=True),
    # A batch has wide scenes or high scenes, never both, so that less of it is padding.
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        metainfo=metainfo,
        pipeline=train_pipeline))

# One image at a time. A batch is padded to its largest image, and the backbone sees the padding. So the detections in
# an image would depend on the other images of its batch.
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
        metainfo=metainfo,
        test_mode=True,
        pipeline=test_pipeline))
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'annotations/val.json', metric=['bbox', 'segm'])

# Nothing is chosen by the test scenes. They are for results.
test_dataloader = dict(val_dataloader, dataset=dict(
    val_dataloader['dataset'], ann_file='annotations/test.json', data_prefix=dict(img='test/')))
test_evaluator = dict(val_evaluator, ann_file=data_root + 'annotations/test.json')

auto_scale_lr = dict(base_batch_size=4)  # two processes
