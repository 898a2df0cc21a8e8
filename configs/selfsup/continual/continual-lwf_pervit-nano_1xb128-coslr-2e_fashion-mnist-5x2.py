# LwF (Li and Hoiem 2016): the answers of the old network for the old classes.
_base_ = '../../_base_/selfsup/continual_fashion-mnist.py'

model = dict(lwf_weight=1., temperature=2.)
