# MMDetection's runtime, with checkpoints that a killed run cannot lose.
_base_ = 'mmdet::_base_/default_runtime.py'

default_hooks = dict(checkpoint=dict(type='PerViTCheckpointHook'))
