# One convolution of kernel 4 and stride 4 in place of the convolutional stem.
_base_ = 'full.py'

model = dict(backbone=dict(stem_cfg=dict(type='patchify')))
