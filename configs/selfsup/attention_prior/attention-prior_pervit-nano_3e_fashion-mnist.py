# Supervised, and head 0 of the last block is drawn to where items are on average. The prior file is made by
# python tools/make_attention_prior.py fashion-mnist work_dirs/attention_prior/foreground.npz
_base_ = '../../pervit_nano_3e_fashion-mnist.py'
custom_imports = dict(imports=['pervit_mm', 'pervit_mm.selfsup'], allow_failed_imports=False)

priors = [dict(prior='work_dirs/attention_prior/foreground.npz', block=-1, heads=[0], loss_weight=1.)]
custom_hooks = [*_base_.custom_hooks, dict(type='AttentionPriorHook', priors=priors)]
