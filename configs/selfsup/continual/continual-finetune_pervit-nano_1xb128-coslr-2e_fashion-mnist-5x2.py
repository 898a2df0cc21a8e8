# Control: nothing is done against forgetting. The first task of all methods is this one, too.
_base_ = '../../_base_/selfsup/continual_fashion-mnist.py'
