# 14 x 14 tokens in place of 7 x 7: the stem has one stride-2 convolution.
_base_ = '../few/full_few.py'

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=(48, 64, 80, 96), depths=(1, 1, 3, 1), num_heads=4, stem_channels=())))
