# Fashion-MNIST: 60,000 training and 10,000 test images of 28 x 28 gray pixels, 10 classes.
data_preprocessor = dict(
    type='ClsDataPreprocessor', num_classes=10, mean=[72.94], std=[90.02], to_rgb=False)

# Only flips: loading shares two CPU cores with the network, and three epochs need no more.
train_pipeline = [
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs', meta_keys=()),
]
# The first two steps are for other images: MMPretrain's inferencers bring them in color and in any size. The test
# images pass unchanged. The channel weights are sixteenths, near those of BT.601. Sixteenths are exact in floating
# point, so a gray image in three channels keeps its values.
test_pipeline = [
    dict(type='RandomGrayscale', prob=1.0, channel_weights=(2, 9, 5), color_format='bgr'),
    dict(type='Resize', scale=28, interpolation='area'),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='FashionMNIST',
        data_root='data/fashion_mnist',
        split='train',
        pipeline=train_pipeline))

# The test split is only reported. No checkpoint is chosen by it.
val_dataloader = dict(
    batch_size=500,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='FashionMNIST',
        data_root='data/fashion_mnist',
        split='test',
        # MMPretrain 1.2.0 chooses the files by `test_mode`. `split='test'` alone would read the training images.
        test_mode=True,
        pipeline=test_pipeline))
val_evaluator = dict(type='Accuracy', topk=(1, ))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
