# The position network's weights start with 10 % of noise around the authors' constants, so that its hidden channels
# don't stay copies of one another.
_base_ = 'pervit_nano_3e_fashion-mnist.py'

model = dict(backbone=dict(init_cfg=dict(type='PeripheralInit', symmetry_noise=0.1)))
