# The row that all others are compared with: PerViT-nano as published, 3 epochs, the backbone in bfloat16.
_base_ = '../pervit_nano_3e_fashion-mnist.py'

optim_wrapper = dict(type='PerViTBFloat16OptimWrapper', modules=('backbone', ))
