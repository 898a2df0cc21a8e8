# MMDetection's runtime, with checkpoints that stay whole when a run is killed, and a log that goes on.
_base_ = 'mmdet::_base_/default_runtime.py'

default_hooks = dict(logger=dict(type='PerViTLoggerHook'), checkpoint=dict(type='PerViTCheckpointHook'))
# Processes must not draw the same numbers for DropPath and Dropout. The samplers agree on a seed of their own.
randomness = dict(seed=None, diff_rank_seed=True)
