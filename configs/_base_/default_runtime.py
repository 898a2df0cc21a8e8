# The settings that all runs with MMPretrain share.
_base_ = 'reliable.py'

custom_imports = dict(imports=['pervit_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='PerViTLoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='PerViTCheckpointHook', interval=1, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='VisualizationHook', enable=False))

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # Seconds that a process waits for the others: a peer that hangs ends the run instead of holding the GPUs.
    dist_cfg=dict(backend='nccl', timeout=1800))

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)

# For tools/test.py --tta. Without a tta_pipeline, images are flipped.
tta_model = dict(type='AverageClsScoreTTA')

log_level = 'INFO'
load_from = None
resume = False

# Each process has its own random stream: on several GPUs Mixup and DropPath must not draw the same numbers.
randomness = dict(seed=0, deterministic=False, diff_rank_seed=True)
