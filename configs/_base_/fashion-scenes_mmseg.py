# MMSegmentation's runtime, by iteration, with PerViT. A resumed run goes on exactly as the undisturbed one.
_base_ = ['mmseg::_base_/default_runtime.py', 'reliable.py']

custom_imports = dict(imports=['pervit_mm'], allow_failed_imports=False)

default_hooks = dict(
    logger=dict(type='PerViTLoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type='PerViTCheckpointHook', by_epoch=False, interval=500, max_keep_ckpts=1),
    # Draws nothing until draw=True is set.
    visualization=dict(type='SegVisualizationHook'))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0, diff_rank_seed=True)
