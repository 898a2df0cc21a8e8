# LwF, and Φp stays near that of the old network.
_base_ = '../../_base_/selfsup/continual_fashion-mnist.py'

model = dict(lwf_weight=1., position_loss=dict(type='PositionDistillation'))
