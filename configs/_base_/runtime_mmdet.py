# MMDetection's runtime, with checkpoints that stay whole when a run is killed.
_base_ = 'mmdet::_base_/default_runtime.py'

default_hooks = dict(checkpoint=dict(type='PerViTCheckpointHook'))
