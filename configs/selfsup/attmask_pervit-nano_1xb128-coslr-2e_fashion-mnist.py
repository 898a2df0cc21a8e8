# AttMask (Kakogeorgiou et al. 2022) for PerViT-nano: iBOT, with the tokens hidden that the teacher attends to.
_base_ = 'ibot_pervit-nano_1xb128-coslr-2e_fashion-mnist.py'

model = dict(masking=dict(_delete_=True, type='AttentionMask', ratio=(0.1, 0.5), prob=0.5))
