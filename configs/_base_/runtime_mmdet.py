# MMDetection's runtime, with checkpoints that stay whole when a run is killed, and a log that goes on.
_base_ = 'mmdet::_base_/default_runtime.py'

default_hooks = dict(logger=dict(type='PerViTLoggerHook'), checkpoint=dict(type='PerViTCheckpointHook'))
