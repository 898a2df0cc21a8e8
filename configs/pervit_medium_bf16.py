# PerViT-M by the recipe of pervit_medium.py, in bfloat16 for GPUs that have it (A100, H100 and newer). It has the
# exponents of float32, so there is no loss to scale and no step to skip.
_base_ = 'pervit_medium.py'

optim_wrapper = dict(dtype='bfloat16', loss_scale=dict(_delete_=True, enabled=False))
