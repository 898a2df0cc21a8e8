# LwF and symmetric attention regularization (Pelosin et al. 2022).
_base_ = '../../_base_/selfsup/continual_fashion-mnist.py'

model = dict(lwf_weight=1., map_loss=dict(type='MapDistillation', maps='attention', symmetric=True))
