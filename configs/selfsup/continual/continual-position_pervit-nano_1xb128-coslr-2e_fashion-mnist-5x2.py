# Φp stays near that of the old network, which sees no image for it.
_base_ = '../../_base_/selfsup/continual_fashion-mnist.py'

model = dict(position_loss=dict(type='PositionDistillation'))
