# LwF, and Φp stays near that of the old network.
_base_ = 'continual-position_pervit-nano_1xb128-coslr-2e_fashion-mnist-5x2.py'

model = dict(lwf_weight=1.)
