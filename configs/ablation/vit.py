# Control: MMPretrain's VisionTransformer with the same data, schedule and token grid.
_base_ = '../vit_nano_3e_fashion-mnist.py'

optim_wrapper = dict(type='PerViTBFloat16OptimWrapper', modules=('backbone', ))
