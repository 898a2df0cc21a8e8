# MMSegmentation's runtime, on several GPUs.
_base_ = 'mmseg::_base_/default_runtime.py'

# Processes must not draw the same numbers for DropPath and Dropout. The samplers agree on a seed of their own.
randomness = dict(seed=None, diff_rank_seed=True)
